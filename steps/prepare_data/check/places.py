"""File, record and line of each valid row, stored compactly as runs of consecutive rows."""

from __future__ import annotations

from array import array
from bisect import bisect_right

import numpy as np


class Places:
    """File, record and line of each row. Rows are numbered as they are added."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """The files, as the user named them."""
        self._count = 0
        # A run: its first row, file, record and line. In a run, record and line increase by one with each row.
        self._rows, self._files, self._records, self._lines = array("q"), array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return self._count

    def add(self, record: int, line: int, count: int = 1) -> None:
        """Add consecutive rows, from a record and line (0: no lines) of the last file in `names`."""
        if self._rows:
            distance = self._count - self._rows[-1]
            first = self._lines[-1]
            follows = line == (first + distance if first else 0) and record == self._records[-1] + distance
            if follows and self._files[-1] == len(self.names) - 1:
                self._count += count
                return
        self._stretch(self._count, len(self.names) - 1, record, line)
        self._count += count

    def extend(self, later: Places, records: int = 0, lines: int = 0) -> None:
        """Append the rows of a later part of the last file; `records` and `lines` come before it."""
        for index, row in enumerate(later._rows):
            end = later._rows[index + 1] if index + 1 < len(later._rows) else later._count
            line = later._lines[index]
            self.add(later._records[index] + records, line + lines if line else 0, end - row)

    def join(self, other: Places) -> None:
        """Append the rows of other files."""
        known = len(self.names)
        self.names += other.names
        for index, row in enumerate(other._rows):
            file = known + other._files[index]
            self._stretch(self._count + row, file, other._records[index], other._lines[index])
        self._count += other._count

    def at(self, row: int) -> tuple[str, int, int]:
        """Return file, record and line (0: no lines) of one row."""
        index = bisect_right(self._rows, row) - 1
        distance, line = row - self._rows[index], self._lines[index]
        return self.names[self._files[index]], self._records[index] + distance, line + distance if line else 0

    def line_of(self, record: int) -> int:
        """Return the line of a record, for the valid rows of one file; 0 for formats without lines."""
        index = max(0, bisect_right(self._records, record) - 1)
        return self._lines[index] + record - self._records[index] if self._lines[index] else 0

    def records(self, rows: np.ndarray) -> np.ndarray:
        """Return the record numbers of many rows, int64."""
        if not len(rows):
            return np.zeros(0, np.int64)
        starts = np.frombuffer(self._rows, np.int64)
        index = np.searchsorted(starts, rows, "right") - 1
        return np.frombuffer(self._records, np.int64)[index] + (rows - starts[index])

    def files(self, rows: np.ndarray) -> np.ndarray:
        """Return the numbers of the files (indexes of `names`) of many rows, int64."""
        index = np.searchsorted(np.frombuffer(self._rows, np.int64), rows, "right") - 1
        return np.frombuffer(self._files, np.int64)[index]

    def _stretch(self, row: int, file: int, record: int, line: int) -> None:
        for values, value in ((self._rows, row), (self._files, file), (self._records, record), (self._lines, line)):
            values.append(value)
