"""The values of one parameter in a space: a list, or a range of numbers with or without a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from pipelines.values import key_of

NEARLY = 1e-9  # share of a step by which a range may miss its upper end, which decimal fractions often do


@dataclass(frozen=True)
class Choices:
    """A list of values, as a run uses them."""

    values: tuple[Any, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    @property
    def points(self) -> tuple[Any, ...]:
        """The values in the order given."""
        return self.values

    @property
    def edges(self) -> tuple[Any, ...]:
        """The values that a plan has to see: all."""
        return self.values

    def has(self, value: Any) -> bool:
        """Return whether a value is one of these."""
        return any(key_of(value) == key_of(one) for one in self.values)

    def as_json(self) -> Any:
        """Return the entry of a space from which this can be made again."""
        return list(self.values)


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    low: int | float
    high: int | float
    log: bool = False
    """Whether all orders of magnitude are equally likely."""
    step: int | float | None = None
    """Difference between neighbours; with log the factor between them. None: every number between low and high."""

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int)

    @property
    def count(self) -> int | None:
        """Number of values; None if there is a number between any two."""
        if self.step is None:
            return int(self.high - self.low) + 1 if self.whole else None
        steps = math.log(self.high / self.low) / math.log(self.step) if self.log else (self.high - self.low) / self.step
        return math.floor(steps + NEARLY) + 1

    @property
    def points(self) -> tuple[Any, ...]:
        """The values in rising order; only for a range that has a number of them."""
        assert self.count is not None
        step = self.step or 1
        low, by = Decimal(repr(self.low)), Decimal(repr(step))
        exact = [low * by**number if self.log and self.step else low + by * number for number in range(self.count)]
        kind = int if self.whole else float
        points = [kind(one) for one in exact]
        if len(points) > 1 and abs(points[-1] - self.high) <= NEARLY * abs(points[-1] - points[-2]):
            points[-1] = self.high
        return tuple(points)

    @property
    def edges(self) -> tuple[Any, ...]:
        """The values that a plan has to see: the lowest and the highest."""
        if self.step is None:
            return (self.low, self.high)
        return (self.points[0], self.points[-1])

    def has(self, value: Any) -> bool:
        """Return whether a number is in the range."""
        if self.step is not None:
            return value in self.points
        return self.low <= value <= self.high

    def as_json(self) -> Any:
        """Return the entry of a space from which this can be made again."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, "log": self.log, **step}


Dimension = Choices | Range


def from_json(entry: Any) -> Dimension:
    """Make again what `as_json` returned."""
    return Range(**entry) if isinstance(entry, dict) else Choices(tuple(entry))
