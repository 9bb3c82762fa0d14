"""What a row of the chaos harness is, and how it is tried."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SEED = 38


@dataclass(frozen=True)
class Row:
    """One fault, as often as asked for."""

    number: int
    """The row of the table in docs/tests.md."""
    name: str
    trial: Callable[[Any, int, random.Random], str]
    """Called with the place, the number of the trial and its own source of chance; returns "" or what did not hold."""
    place: str
    """The fixture with everything that the trials need."""
    short: int = 0
    """Trials in `make test`."""
    long: int = 20
    """Trials in `make chaos`."""


def failures(row: Row, place: Any, count: int) -> list[str]:
    """Try a row so many times; return what did not hold."""
    told = []
    for trial in range(count):
        said = row.trial(place, trial, random.Random(f"{SEED} {row.name} {trial}"))
        if said:
            told.append(f"trial {trial}: {said}")
    return told
