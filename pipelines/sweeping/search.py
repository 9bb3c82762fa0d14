"""The parameters of the next trial: a grid, a list, or one of Optuna's samplers.

A search has no state of its own. Optuna's study is made again from the trials so far at each question, with a sampler
whose seed follows from the sweep's seed and the number of the trial. So the same trials get the same answer, also from
a driver that was killed and started again.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipelines.sweeping.described import GRID, LISTED, RANDOM, Described
from pipelines.sweeping.dimension import Choices, Dimension, Range
from pipelines.sweeping.space import LARGEST_GRID
from pipelines.values import key_of
from steps.params.metrics import direction_of

if TYPE_CHECKING:
    import optuna

TRIES = 5  # suggestions that were tried before, until any other combination is taken
STARTUP_SHARE = 4  # a quarter of the trials are random before the sampler learns from them, at most Optuna's 10
FEWEST_STARTUP, MOST_STARTUP = 4, 10


class Search:
    """Chooses the parameters of each trial of a sweep."""

    def __init__(self, described: Described) -> None:
        self.described = described
        self._axes = {name: _Axis(one) for name, one in described.space.items()}

    @cached_property
    def combinations(self) -> int | None:
        """Number of combinations of a space; None if there is a range without a step."""
        counts = [one.count for one in self.described.space.values()]
        return None if None in counts else math.prod(count or 0 for count in counts)

    @property
    def total(self) -> int:
        """Number of trials."""
        available = len(self.described.trials) if self.described.search == LISTED else self.combinations
        return min(one for one in (available, self.described.budget) if one is not None)

    @property
    def note(self) -> str:
        """A sentence if there will be fewer trials than the budget; else empty."""
        budget, total = self.described.budget, self.total
        if budget is None or total == budget:
            return ""
        kind = "trials are listed" if self.described.search == LISTED else "combinations are in the space"
        return f"{total} {kind}, fewer than the budget of {budget}: each is tried once"

    def ask(self, done: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the parameters that differ for the next trial; None when there is no further one.

        `done` are the trials so far, as in sweep.json, with those that run or wait.
        """
        number = 1 + max((one["number"] for one in done), default=-1)
        if number >= self.total:
            return None
        if self.described.search == LISTED:
            return dict(self.described.trials[number])
        if self.described.search == GRID:
            return dict(self._grid[number])
        return self._untried(number, done)

    def corners(self) -> list[dict[str, Any]]:
        """Return trials that have every listed value and both ends of every range, for a plan before any is known.

        All values but one are the first or the lowest.
        """
        if self.described.search == LISTED:
            return [dict(one) for one in self.described.trials]
        edges = {name: one.edges for name, one in self.described.space.items()}
        first = {name: values[0] for name, values in edges.items()}
        return [first, *({**first, name: value} for name, values in edges.items() for value in values[1:])]

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        return list(itertools.islice(self._product(), self.total))

    def _product(self) -> Iterator[dict[str, Any]]:
        """Yield every combination, in the order given; the last parameter changes first."""
        for one in itertools.product(*(one.points for one in self.described.space.values())):
            yield dict(zip(self.described.space, one, strict=True))

    def _untried(self, number: int, done: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what the sampler suggests; in a space with a number of combinations, each of them once."""
        if number == 0 and (configured := self._configured()):
            return configured
        tried = {key_of({name: one["parameters"].get(name) for name in self._axes}) for one in done}
        for again in range(TRIES):
            suggested = self._suggested(number, again, done)
            if self.combinations is None or key_of(suggested) not in tried:
                return suggested
        return self._any_other(number, tried)

    def _configured(self) -> dict[str, Any] | None:
        """Return the values that a single run would have, if the space has them: a sampler learns from them first.

        Random search has no use for them.
        """
        described = self.described
        if described.search == RANDOM:
            return None
        own = {name: described.configured(name) for name in self._axes}
        return own if all(one.has(own[name]) for name, one in described.space.items()) else None

    def _any_other(self, number: int, tried: set[str]) -> dict[str, Any]:
        """Return a random combination that was not tried; there is one, as there are fewer trials than combinations."""
        chance = self._chance(number, TRIES)
        if (self.combinations or 0) <= LARGEST_GRID:
            return chance.choice([one for one in self._product() if key_of(one) not in tried])
        while True:  # ends soon: a sweep has at most LARGEST_GRID trials
            one = {name: axis.any(chance) for name, axis in self._axes.items()}
            if key_of(one) not in tried:
                return one

    def _chance(self, number: int, again: int) -> random.Random:
        # Not seed + number: trial 1 of seed 0 would be trial 0 of seed 1.
        return random.Random(f"{self.described.seed}:{number}:{again}")

    def _suggested(self, number: int, again: int, done: list[dict[str, Any]]) -> dict[str, Any]:
        import optuna

        # Axes with one value are left out: some samplers cannot have them.
        axes = {name: one.distribution() for name, one in self._axes.items() if one.is_open}
        with _quiet():
            study = optuna.create_study(
                direction="maximize" if self.described.higher_is_better else "minimize",
                sampler=self._sampler(self._chance(number, again).getrandbits(32)),
            )
            for one in sorted(done, key=lambda one: one["number"]):
                study.add_trial(self._as_optuna_has_it(one, axes))
            suggested = study.ask(axes).params
        return {
            name: axis.value(suggested[name]) if name in suggested else axis.points[0]
            for name, axis in self._axes.items()
        }

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        from optuna import samplers

        startup = min(MOST_STARTUP, max(FEWEST_STARTUP, self.total // STARTUP_SHARE))
        if self.described.search == "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True)
        if self.described.search == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=startup)
        return samplers.RandomSampler(seed=seed)

    def _as_optuna_has_it(self, one: dict[str, Any], axes: dict[str, Any]) -> optuna.trial.FrozenTrial:
        from optuna.trial import TrialState, create_trial

        score = one.get("score")
        measured = isinstance(score, int | float) and math.isfinite(score)
        states = {"finished": TrialState.COMPLETE if measured else TrialState.FAIL, "failed": TrialState.FAIL,
                  "pruned": TrialState.PRUNED}  # fmt: skip
        state = states.get(one["state"], TrialState.RUNNING)
        return create_trial(
            state=state,
            params={name: self._axes[name].internal(one["parameters"][name]) for name in axes},
            distributions=axes,
            value=float(score) if state == TrialState.COMPLETE and score is not None else None,
            intermediate_values=self._curve(one),
        )

    def _curve(self, one: dict[str, Any]) -> dict[int, float]:
        """Return the curve, with its sign changed if it falls where the metric of the sweep rises."""
        try:
            rises = bool(direction_of(str(one.get("curve_metric", "")).removeprefix("validation ")))
        except KeyError:
            rises = False  # the loss
        sign = 1 if rises == self.described.higher_is_better else -1
        points = [(step, value) for step, value in one.get("curve") or () if value is not None]
        return {int(step): sign * float(value) for step, value in points if math.isfinite(value)}


class _Axis:
    """One parameter for Optuna: a number as it is, one of several values as its place among them.

    Places, since Optuna takes no object, and takes 1 and true for the same. Numbers have places in rising order, so
    that a sampler knows which are close; other values have none.
    """

    def __init__(self, dimension: Dimension) -> None:
        self.plain = dimension if isinstance(dimension, Range) and dimension.step is None else None
        self.points: list[Any] = [self.plain.low] if self.plain else list(dimension.points)
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in self.points)
        self.ordered = numbers or not isinstance(dimension, Choices)
        if self.ordered:
            self.points.sort()
        self.places = {key_of(one): place for place, one in enumerate(self.points)}

    @property
    def is_open(self) -> bool:
        """Whether there is more than one value."""
        return self.plain is not None or len(self.points) > 1

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return Optuna's distribution."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.plain is None:
            places = range(len(self.points))
            return IntDistribution(0, places[-1]) if self.ordered else CategoricalDistribution(list(places))
        if isinstance(self.plain.low, int) and isinstance(self.plain.high, int):
            return IntDistribution(self.plain.low, self.plain.high, log=self.plain.log)
        return FloatDistribution(self.plain.low, self.plain.high, log=self.plain.log)

    def any(self, chance: random.Random) -> Any:
        """Return a random value of a parameter that has a number of them."""
        return chance.randint(int(self.plain.low), int(self.plain.high)) if self.plain else chance.choice(self.points)

    def internal(self, value: Any) -> Any:
        """Return a value of the parameter as Optuna has it."""
        return value if self.plain else self.places[key_of(value)]

    def value(self, internal: Any) -> Any:
        """Return the value of the parameter for one of Optuna's."""
        return internal if self.plain else self.points[internal]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from printing a line for each study, and leave its logging as it was."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
