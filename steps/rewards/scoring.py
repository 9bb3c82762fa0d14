"""Score completions with several rewards: every reward by itself, and their weighted sum."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steps.errors import Problem, UserError, nearest, shown, some_of
from steps.rewards.library import GIVEN, Function

# Rewards are compared in float32: the squares of larger ones overflow there, and nothing would be learned.
LARGEST = 1e18


@dataclass(frozen=True)
class Reward:
    """One reward, ready to be called."""

    name: str
    """As the user wrote it; a function of the user is file.py:function."""
    weight: float
    columns: tuple[str, ...]
    """Columns that it needs."""
    call: Function = field(repr=False)
    optional: tuple[str, ...] = ()
    """Columns that it takes where they are there."""
    everything: bool = False
    """Whether it takes every column."""

    @property
    def short(self) -> str:
        """Name in metrics and tables: a user's function without its file."""
        return self.name.rpartition(":")[2]


@dataclass(frozen=True)
class Scores:
    """Rewards of a batch; every list has one entry per completion."""

    rewards: dict[str, list[float | None]]
    """By name of the reward; None where it does not apply."""
    totals: list[float | None]
    """Sum of weight × reward over the rewards that apply; None where none does."""
    extra: dict[str, list[Any]] = field(default_factory=dict)
    """Columns that the rewards logged for the table of completions, as reward/column."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Figures that the rewards logged, as reward/name; the mean if one was logged several times."""


@dataclass(frozen=True)
class Rewards:
    """The rewards of a training or an evaluation."""

    rewards: tuple[Reward, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the rewards need, each once."""
        return tuple(dict.fromkeys(column for reward in self.rewards for column in reward.columns))

    @property
    def weights(self) -> list[float]:
        """The weights, in the order of the rewards."""
        return [reward.weight for reward in self.rewards]

    def check_columns(self, there: Iterable[str]) -> None:
        """Raise UserError if the data lack a column that a reward needs; call it before training."""
        names = [name for name in there if name not in GIVEN]
        problems = [
            Problem("REWARD-E0205", reward.name, f"no column {column!r} (there are {some_of(names)})",
                    "every column that the reward takes by name",
                    nearest(column, names) or "add the column to the data, or name another one")
            for reward in self.rewards
            for column in reward.columns
            if column not in names
        ]  # fmt: skip
        if problems:
            raise UserError(problems)

    def score(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        columns: Mapping[str, Sequence[Any]],
        completion_ids: Sequence[Any] | None = None,
        trainer_state: Any = None,
    ) -> Scores:
        """Score a batch. Prompts and completions are texts or conversations (lists of messages).

        Raises UserError if a column is missing or has another length, or if a function of the user fails.
        """
        self.check_columns(columns)
        given = {"prompts": prompts, "completions": completions, **columns}
        if completion_ids is not None:
            given["completion_ids"] = completion_ids
        lists = {name: list(values) for name, values in given.items()}
        if wrong := [name for name, values in lists.items() if len(values) != len(completions)]:
            raise UserError(
                Problem("REWARD-E0224", ", ".join(wrong), f"{len(lists[wrong[0]])} values",
                        f"one for each of the {len(completions)} completions", "give lists of the same length")
            )  # fmt: skip
        made: dict[str, list[float | None]] = {}
        extra: dict[str, list[Any]] = {}
        logged: dict[str, list[float]] = {}
        for reward in self.rewards:
            made[reward.name] = self._called(reward, lists, trainer_state, extra, logged)
        totals = [self._total([made[reward.name][row] for reward in self.rewards]) for row in range(len(completions))]
        metrics = {name: sum(values) / len(values) for name, values in logged.items()}
        return Scores(made, totals, extra, metrics)

    def _called(
        self,
        reward: Reward,
        lists: dict[str, list[Any]],
        trainer_state: Any,
        extra: dict[str, list[Any]],
        logged: dict[str, list[float]],
    ) -> list[float | None]:
        def log_extra(column: str, values: list[Any]) -> None:
            if len(values) != len(lists["completions"]):
                raise UserError(
                    Problem("REWARD-E0217", f"{reward.name}, log_extra({column!r})", f"{len(values)} values",
                            f"one for each of the {len(lists['completions'])} completions", "log such a list")
                )  # fmt: skip
            extra[f"{reward.short}/{column}"] = list(values)

        def log_metric(name: str, value: float) -> None:
            logged.setdefault(f"{reward.short}/{name}", []).append(float(value))

        wanted = {*reward.columns, *reward.optional, "prompts", "completions", "completion_ids"}
        values: dict[str, Any] = {
            name: list(column) for name, column in lists.items() if reward.everything or name in wanted
        }
        values |= {"log_extra": log_extra, "log_metric": log_metric}
        if trainer_state is not None:
            values["trainer_state"] = trainer_state
        return checked(reward.name, reward.call(**values), lists["completions"])

    def _total(self, rewards: list[float | None]) -> float | None:
        """As TRL's nansum of weight × reward, but None instead of 0 where no reward applies."""
        products = [weight * one for weight, one in zip(self.weights, rewards, strict=True) if one is not None]
        return math.fsum(products) if products else None


def checked(name: str, made: list[Any], completions: list[Any]) -> list[float | None]:
    """Return rewards as finite numbers or None. Raises UserError with function, row and value of any other."""
    if len(made) != len(completions):
        raise UserError(
            Problem("REWARD-E0209", name, f"{len(made)} rewards for {len(completions)} completions",
                    "one reward per completion", "return a list of the same length, with None where none applies")
        )  # fmt: skip
    wrong = [row for row, value in enumerate(made) if value is not None and not is_finite(value)]
    if wrong:
        row = wrong[0]
        raise UserError(
            Problem("REWARD-E0210", f"{name}, row {row + 1} of {len(made)} ({shown(completions[row])})",
                    shown(made[row]), "a finite number up to 1e18, or None where the reward does not apply",
                    "correct the function", rows=tuple(one + 1 for one in wrong[:3]), count=len(wrong))
        )  # fmt: skip
    return [None if value is None else float(value) for value in made]


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number, not too large; numpy's and torch's scalars are numbers too."""
    if not isinstance(value, numbers.Real) and not (hasattr(value, "item") and hasattr(value, "dtype")):
        return False
    try:
        return abs(float(value)) <= LARGEST  # false for NaN
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False
