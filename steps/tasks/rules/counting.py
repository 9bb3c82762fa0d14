"""What is counted over all rows of a file, and what the counts say: labels nobody trained on, one class only, …"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from steps.tasks import Fault

RECORDS_KEPT = 5


class Tally:
    """How often each key was seen in a file, and in which records first."""

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
        """Add the counts of a later part of the file, whose first record stands `shift` records further down."""
        self.rows += later.rows
        self.counts += later.counts
        for key, records in later.records.items():
            first = self.records.setdefault(key, [])
            first += [record + shift for record in records[: RECORDS_KEPT - len(first)]]


@dataclass(frozen=True)
class Judgement:
    """What the counts of a file mean; the letter of the code says whether that refuses, warns or only tells."""

    split: str
    """Which of the given files: train, validation or test."""
    fault: Fault
    """DATA-E… refuses the file. Of DATA-W… and DATA-F… only `found` is told: a whole sentence about the file."""
    count: int = 1
    """Rows that are meant."""
    records: tuple[int, ...] = ()
    """The first of them."""
