"""A whole sweep, as the user described it: checked, and with every value as a run uses it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pipelines.catalog import PIPELINES
from pipelines.sweeping.dimension import Dimension, from_json
from pipelines.sweeping.space import LARGEST_GRID, Reader, check_grid, read_space, read_trials
from pipelines.values import is_finite, number_in, plain
from steps.errors import Problem, SecurityRefusal, UserError, nearest, shown
from steps.params.group import merged
from steps.params.metrics import direction_of
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import choices_of, default_of, read_some, read_value, todays_name
from steps.params.sweep import NAME, SweepParams

GRID = "grid"
LISTED = "trials"
RANDOM = "random"
SAMPLERS = (RANDOM, "tpe", "gp")
"""Optuna's samplers that need no further package, search for one value and can go on from a list of trials."""
SEARCHES = (GRID, *SAMPLERS, LISTED)
NOT_OFFERED = {
    "cmaes": "it needs the package cmaes, and a state that a list of trials does not have",
    "cma_es": "it needs the package cmaes, and a state that a list of trials does not have",
    "nsgaii": "it searches for several values at once, in generations of 50 trials",
    "nsgaiii": "it searches for several values at once, in generations of 50 trials",
    "qmc": "it needs a state that a list of trials does not have",
    "hyperband": "it decides which trials are stopped, not which are tried",
}
MEANT = {"bruteforce": GRID, "brute_force": GRID, "bayesian": "gp", "bayes": "gp", "optuna": "tpe", "list": LISTED}
PRUNERS = choices_of(SweepParams.model_fields["pruner"])
MEANT_PRUNERS = {
    "asha": "successive_halving",
    "sha": "successive_halving",
    "hyperband": "successive_halving",
    "no": "none",
    "off": "none",
    "false": "none",
}


def is_name(given: object) -> bool:
    """Return whether a sweep can have this name, which is also that of its folder."""
    return isinstance(given, str) and NAME.fullmatch(given) is not None


class WrongSweep(UserError):
    """A sweep with wrong values. `rest` is what is left of it without them, which can still be planned, or None."""

    def __init__(self, problems: Iterable[Problem], rest: Described | None = None, numbers: Iterable[int] = ()):
        super().__init__(problems)
        self.rest = rest
        self.numbers = list(numbers)
        """The numbers that the listed trials of `rest` have in the whole sweep."""


@dataclass(frozen=True)
class Described:
    """A sweep: what is trained, which parameters differ between the trials, and how they are searched."""

    pipeline: str
    parameters: dict[str, Any]
    """What all trials share, as the user wrote it; the contents of `overrides` stand among them."""
    search: str
    """One of SEARCHES."""
    metric: str
    """Metric on the validation rows by which trials are compared."""
    higher_is_better: bool
    space: dict[str, Dimension] = field(default_factory=dict)
    """Parameter → its values; empty for a list of trials."""
    trials: tuple[dict[str, Any], ...] = ()
    """The trials of search=trials, each with every parameter that differs between them."""
    budget: int | None = None
    """Largest number of trials; None for all of a grid or a list."""
    pruner: str = "none"
    max_parallel: int = 1
    seed: int = 42
    name: str = ""
    """Name of the sweep; empty if the caller chooses one."""

    @property
    def varied(self) -> list[str]:
        """The parameters that differ between trials."""
        return list(self.space or (self.trials[0] if self.trials else ()))

    def configured(self, name: str) -> Any:
        """Return the value of a parameter in a run without a sweep: as given for all trials, or the default."""
        model = PARAMETER_MODELS[self.pipeline]
        given = {todays_name(model, key): value for key, value in self.parameters.items()}
        value = given[name] if name in given else default_of(model.model_fields[name])
        return read_value(self.pipeline, name, value)

    def of_trial(self, varied: dict[str, Any]) -> dict[str, Any]:
        """Return all parameters of a trial; `varied` are its own ones."""
        return merged(PARAMETER_MODELS[self.pipeline], self.parameters, varied)

    def own(self, name: str, trials: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the parameters of the compiled sweep (SweepParams) besides those of its pipeline."""
        return {"trials": trials, "parallelism": self.max_parallel, "sweep_metric": self.metric, "pruner": self.pruner,
                "sweep_name": name}  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """Return this as JSON values, from which `from_json` makes it again."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        space = {name: one.as_json() for name, one in self.space.items()}
        return {**values, "space": space, "trials": list(self.trials)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Described:
        """Make again what `as_json` returned."""
        space = {name: from_json(entry) for name, entry in values["space"].items()}
        return cls(**{**values, "space": space, "trials": tuple(values["trials"])})


def describe(
    pipeline: str,
    parameters: dict[str, Any] | None = None,
    space: Any = None,
    trials: Any = None,
    *,
    search: str = GRID,
    budget: Any = None,
    metric: str = "",
    pruner: str = "none",
    max_parallel: Any = 1,
    seed: Any = 42,
    name: str = "",
) -> Described:
    """Check a sweep and return it; an empty `metric` is the one of the gate.

    Raises SecurityRefusal for a value that contains a secret, else WrongSweep with every problem: unknown names and
    words (with the nearest), values that the pipeline refuses, a space that cannot be searched as asked.
    """
    known = _pipeline(pipeline)
    checking = _Checking(Reader(known))
    given = _flat(checking, parameters)
    fixed = _fixed(checking, given)
    shared_wrong = len(checking.reader.problems)
    has_space, has_trials = space is not None, trials is not None
    search = checking.search(search, has_trials)
    if has_space == has_trials:
        found = "space and trials" if has_space else "neither space nor trials"
        fix = "remove one of the two" if has_space else "write the parameters that vary, with their values"
        checking.tell("SWEEP-E0140", "space", found, "one of them", fix)
    dimensions = read_space(checking.reader, space) if has_space else {}
    listed = read_trials(checking.reader, trials, fixed) if has_trials else []
    if search == GRID and has_space:
        check_grid(checking.reader, dimensions)
    metric, higher = checking.metric(metric, fixed)
    described = Described(
        known, given, search, metric, higher, dimensions, tuple(listed),
        checking.budget(budget, search), checking.pruner(pruner, fixed, dimensions, listed),
        checking.whole("SWEEP-E0141", "max_parallel", max_parallel, 1, LARGEST_GRID),
        checking.whole("SWEEP-E0142", "seed", seed, 0, 2**32 - 1), checking.name(name),
    )  # fmt: skip
    right = [number for number in range(len(listed)) if number not in checking.reader.wrong]
    is_whole = not shared_wrong and len(dimensions) == (len(space) if isinstance(space, dict) else 0)
    rest = replace(described, trials=tuple(listed[number] for number in right)) if is_whole else None
    checking.end(rest if right or dimensions else None, right)
    return described


def _pipeline(pipeline: Any) -> str:
    name = pipeline.strip().replace("-", "_") if isinstance(pipeline, str) else ""
    trains = [one for one, published in PIPELINES.items() if published.trains]
    if name in trains:
        return name
    if name in PIPELINES:
        raise UserError(Problem("SWEEP-E0143", "pipeline", f"{name}, which trains nothing",
                                f"one of {', '.join(trains)}", "name a pipeline that trains"))  # fmt: skip
    fix = nearest(name, trains) or "see `finetune list`"
    raise UserError(Problem("PARAM-E0100", "pipeline", shown(pipeline), f"one of {', '.join(trains)}", fix))


def _flat(checking: _Checking, parameters: Any) -> dict[str, Any]:
    """Return the parameters of all trials, with the contents of `overrides` among them."""
    given = plain(parameters or {})
    overrides = given.get("overrides") if isinstance(given, dict) else None
    if not isinstance(given, dict):
        checking.tell("SWEEP-E0144", "parameters", shown(given), "parameters by name", "write {lora_r: 8}")
        return {}
    if not isinstance(overrides, dict | None):
        return given  # told by read_some
    return merged(checking.reader.model, {k: v for k, v in given.items() if k != "overrides"}, overrides or {})


def _fixed(checking: _Checking, given: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of all trials under current names, as a run uses them."""
    reader = checking.reader
    for name in [name for name, one in given.items() if isinstance(one, dict | list) and not is_finite(one)]:
        checking.tell("SWEEP-E0145", name, shown(given[name]), "a value without NaN or infinity", "correct it")
    try:
        read_some(reader.pipeline, given)
    except SecurityRefusal as error:
        reader.refusals += error.problems
    except UserError as error:
        reader.problems += [_of_shared(one, given) for one in error.problems]
    fixed = {}
    for name, value in given.items():
        if (today := todays_name(reader.model, name)) not in reader.model.model_fields:
            continue
        try:
            fixed[today] = read_value(reader.pipeline, today, value)
        except (SecurityRefusal, UserError):
            fixed[today] = value  # told above
    return fixed


def _of_shared(problem: Problem, given: dict[str, Any]) -> Problem:
    """Say where several values belong that were given for all trials."""
    if problem.code != "PARAM-E0103" or not isinstance(given.get(problem.where), list):
        return problem
    return replace(problem, fix=f"to try each value, move {problem.where} to the space; else give one value")


class _Checking:
    """Checks the words and numbers of a sweep, and keeps every problem beside those of the reader."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.tell = reader.tell

    def search(self, given: Any, has_trials: bool) -> str:
        """Return the search; a list of trials needs no name for it."""
        asked = _word(given) or GRID
        if asked not in SEARCHES:
            why = NOT_OFFERED.get(asked, "")
            near = MEANT.get(asked)
            fix = f"did you mean {near}?" if near else nearest(asked, SEARCHES) if not why else "use tpe or gp"
            self.tell("SWEEP-E0146", "search", shown(given), f"one of {', '.join(SEARCHES)}", fix or "use tpe", why)
            return LISTED if has_trials else GRID
        if has_trials and asked not in (GRID, LISTED):
            self.tell("SWEEP-E0147", "search", f"{asked} with a list of trials", LISTED,
                      "give a space instead of trials, or leave search out")  # fmt: skip
        if not has_trials and asked == LISTED:
            self.tell("SWEEP-E0148", "search", "trials without a list of trials", "a list named trials",
                      "write trials, or another search")  # fmt: skip
        return LISTED if has_trials else asked

    def budget(self, given: Any, search: str) -> int | None:
        """Return the number of trials; samplers need one."""
        if given is None or given == "":
            if search in SAMPLERS:
                self.tell("SWEEP-E0149", "budget", f"nothing with search={search}", "the number of trials",
                          "write budget: 20")  # fmt: skip
            return None
        return self.whole("SWEEP-E0150", "budget", given, 1, LARGEST_GRID)

    def metric(self, given: Any, fixed: dict[str, Any]) -> tuple[str, bool]:
        """Return the metric, and whether higher is better."""
        choices = choices_of(self.reader.model.model_fields["gate_metric"])
        asked = given.strip() if isinstance(given, str) else given
        chosen = asked or fixed.get("gate_metric") or self.reader.default("gate_metric")
        if chosen in choices:
            return chosen, bool(direction_of(chosen))
        if asked:
            self.tell("SWEEP-E0151", "metric", shown(given), f"one of {', '.join(choices)}",
                      nearest(str(asked), choices) or "set it to one of them")  # fmt: skip
        return self.reader.default("gate_metric"), False

    def pruner(self, given: Any, fixed: dict[str, Any], space: dict[str, Dimension], trials: list[Any]) -> str:
        """Return the pruner, which needs evaluations during every training."""
        asked = _word(given) or PRUNERS[0]
        if asked not in PRUNERS:
            near = MEANT_PRUNERS.get(asked)
            fix = f"did you mean {near}?" if near else nearest(asked, PRUNERS) or "set it to one of them"
            self.tell("SWEEP-E0152", "pruner", shown(given), f"one of {', '.join(PRUNERS)}", fix)
            return PRUNERS[0]
        when = self.reader.model.named("evaluation_strategy")
        shared = (fixed.get(when),)
        varied = space[when].edges if when in space else shared
        strategies = [*varied, *(one.get(when) for one in trials)]
        if asked != PRUNERS[0] and "no" in strategies:
            self.tell("SWEEP-E0153", "pruner", f"{asked} with {when}=no", "evaluations during training",
                      f"set {when} to epoch or steps, or pruner to none")  # fmt: skip
        return asked

    def name(self, given: Any) -> str:
        """Return the name of the sweep, which is also the name of a folder."""
        if given in ("", None) or is_name(given):
            return given or ""
        self.tell("SWEEP-E0154", "name", shown(given), "at most 100 letters (a to z), digits, dots, _ and -, first a "
                  "letter or a digit", "choose another name")  # fmt: skip
        return ""

    def whole(self, code: str, where: str, given: Any, least: int, most: int) -> int:
        """Return a whole number between two others."""
        number = number_in(plain(given))
        if isinstance(number, int) and least <= number <= most:
            return number
        self.tell(code, where, shown(given), f"a whole number from {least:,} to {most:,}", "correct it")
        return least

    def end(self, rest: Described | None, numbers: list[int]) -> None:
        """Raise SecurityRefusal for values that contain a secret, else WrongSweep for all other problems, if any."""
        if self.reader.refusals:
            raise SecurityRefusal(self.reader.refusals)
        if self.reader.problems:
            raise WrongSweep(self.reader.problems, rest, numbers)


def _word(given: Any) -> str:
    """Return a word as the lists of words have it."""
    return str(given).strip().lower().replace("-", "_").replace(" ", "_") if given is not None else ""
