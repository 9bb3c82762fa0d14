"""The valid rows of a source or split: their places, and their canonical form on disk."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from steps.prepare_data.check.places import Places
from steps.prepare_data.findings import Place


class Rows:
    """The valid rows of a file, or some of them."""

    def __init__(
        self,
        places: Places,
        fingerprints: np.ndarray,
        stored: StoredRows | None = None,
        order: np.ndarray | None = None,
    ):
        self.places = places
        self.stored = stored
        """The canonical rows, if they were kept."""
        self._fingerprints = fingerprints
        self._order = order  # row numbers in `places`, `stored` and the fingerprints; None for all rows

    def __len__(self) -> int:
        return len(self._fingerprints if self._order is None else self._order)

    @property
    def fingerprints(self) -> np.ndarray:
        """Hashes of the rows, int64 (`steps.tasks.likeness`)."""
        return self._fingerprints if self._order is None else self._fingerprints[self._order]

    @property
    def source(self) -> str:
        """The files as the user named them."""
        first, *more = self.places.names
        return f"{first} and {len(more)} more" if more else first

    @property
    def schema(self) -> pa.Schema:
        """Schema of the canonical rows."""
        assert self.stored
        return self.stored.schema

    @cached_property
    def records(self) -> np.ndarray:
        """Record number of each row in its file, int64."""
        return self.places.records(self._numbers(slice(None)))

    @property
    def files(self) -> np.ndarray:
        """Number of each row's file (`places.names`), int64."""
        return self.places.files(self._numbers(slice(None)))

    def take(self, rows: np.ndarray) -> Rows:
        """Return the given rows in the given order."""
        return Rows(self.places, self._fingerprints, self.stored, self._numbers(rows))

    def table(self, start: int = 0, stop: int | None = None) -> pa.Table:
        """Read the canonical rows from `start` to before `stop`."""
        assert self.stored
        return self.stored.take(self._numbers(slice(start, stop)))

    def where(self, row: int, column: str = "") -> str:
        """Return a row's location as messages show it."""
        name, record, line = self.places.at(row if self._order is None else int(self._order[row]))
        return Place(record, line).in_file(name, column)

    def _numbers(self, rows: np.ndarray | slice) -> np.ndarray:
        if self._order is not None:
            return self._order[rows]
        return np.arange(len(self))[rows] if isinstance(rows, slice) else rows


class StoredRows:
    """Canonical rows in memory-mapped Arrow files, read on demand."""

    def __init__(self, files: list[Path], schema: pa.Schema):
        self.schema = schema
        self._batches = []
        for file in files:
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
            self._batches += [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self._starts = np.cumsum([0] + [len(batch) for batch in self._batches])

    def take(self, rows: np.ndarray) -> pa.Table:
        """Read rows by number, in any order."""
        order = np.argsort(rows, kind="stable")
        rising = rows[order]
        pieces = []
        for number in np.unique(np.searchsorted(self._starts, rising, "right") - 1):
            first, last = np.searchsorted(rising, self._starts[number : number + 2])
            pieces.append(self._batches[number].take(pa.array(rising[first:last] - self._starts[number])))
        table = pa.Table.from_batches(pieces, self.schema)
        if (np.diff(order) == 1).all():
            return table
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return table.combine_chunks().take(pa.array(back))


def read_back(rows: pa.Table) -> list[dict[str, Any]]:
    """Convert canonical rows to Python values, column by column: five times as fast as `to_pylist`."""
    columns = [_values(column) for column in rows.combine_chunks().columns]
    return [dict(zip(rows.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.Array | pa.ChunkedArray) -> list[Any]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type
    if column.null_count == 0 and pa.types.is_list(kind):
        values = _values(column.flatten())
        offsets = column.offsets.to_numpy() - column.offsets[0].as_py()
        return [values[first:end] for first, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]
    if column.null_count == 0 and pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return [dict(zip(names, row, strict=True)) for row in zip(*map(_values, column.flatten()), strict=True)]
    if pa.types.is_string(kind):
        return list(column.to_numpy(zero_copy_only=False))
    return list(column.to_pylist())
