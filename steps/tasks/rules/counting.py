"""Counts over all rows of a file, and conclusions from them: labels missing in train, only one class, …"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from steps.tasks import Fault

RECORDS_KEPT = 5


class Tally:
    """How often each key occurs in a file, and its first records."""

    def __init__(self) -> None:
        self.rows = 0
        self.counts: Counter[Hashable] = Counter()
        self.records: dict[Hashable, list[int]] = {}
        """Key → its first records."""

    def add(self, keys: Iterable[Hashable], record: int) -> None:
        """Count the keys of one row."""
        self.rows += 1
        for key in keys:
            self.counts[key] += 1
            first = self.records.setdefault(key, [])
            if len(first) < RECORDS_KEPT:
                first.append(record)

    def extend(self, later: Tally, shift: int) -> None:
        """Add the counts of a later part of the file; `shift` records come before it."""
        self.rows += later.rows
        self.counts += later.counts
        for key, records in later.records.items():
            first = self.records.setdefault(key, [])
            first += [record + shift for record in records[: RECORDS_KEPT - len(first)]]


@dataclass(frozen=True)
class Judgement:
    """A conclusion from the counts of a file; the letter of its code says whether it is an error, warning or note."""

    split: str
    """Which of the given files: train, validation or test."""
    fault: Fault
    """DATA-E… refuses the file. For DATA-W… and DATA-F… only `found` is reported, a sentence about the file."""
    count: int = 1
    """Number of rows concerned."""
    records: tuple[int, ...] = ()
    """The first of these rows."""
