"""Every completion of a training with its rewards, in a Parquet file that grows with the training.

A file of its own takes each batch; now and then they are joined. A checkpoint holds the table until then, so a resumed
training has no row twice, and none of steps that it takes again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.reports.facts import COMPLETIONS
from steps.rewards.texts import as_table_text

FOLDER = "completions"  # beside the checkpoints
MANY = 200  # files that are joined
ROWS = 4096  # of a row group

BEFORE = [
    pa.field("step", pa.int64()),
    pa.field("split", pa.string()),
    pa.field("place", pa.int64()),
    pa.field("prompt", pa.string()),
    pa.field("completion", pa.string()),
    pa.field("tokens", pa.int64()),
    pa.field("finished", pa.bool_()),
    pa.field("reward", pa.float64()),
]
AFTER = [pa.field("advantage", pa.float64())]


class CompletionsTable:
    """The table of one training; `rewards` are the names of its rewards. Only the first process uses it."""

    def __init__(self, checkpoints: Path, rewards: Sequence[str]):
        self.folder = checkpoints / FOLDER
        self.rewards = [pa.field(f"rewards/{name}", pa.float64()) for name in rewards]
        self._extra: list[str] = []
        self._number = 0

    def begin(self, checkpoint: Path | None) -> None:
        """Start with the rows of a checkpoint, or with none."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self._extra, self._number = [], 0
        if checkpoint and (checkpoint / COMPLETIONS).is_file():
            shutil.copy(checkpoint / COMPLETIONS, self.folder / COMPLETIONS)
            known = {field.name for field in (*BEFORE, *self.rewards, *AFTER)}
            self._extra = [name for name in pq.read_schema(self.folder / COMPLETIONS).names if name not in known]

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add a batch; what a row has beside the table's own columns was logged by a reward."""
        known = {field.name for field in (*BEFORE, *self.rewards, *AFTER)}
        new = {name: None for row in rows for name in row if name not in known and name not in self._extra}
        self._extra += sorted(new)
        schema = self._schema()
        columns = [
            pa.array([as_table_text(row.get(field.name)) if field.name in self._extra else row.get(field.name)
                      for row in rows], field.type)
            for field in schema
        ]  # fmt: skip
        self._number += 1
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), self.folder / f"{self._number:09}.parquet")
        if self._number % MANY == 0:
            self._join()

    def save(self, folder: Path) -> None:
        """Write all rows into a checkpoint or the result."""
        self._join()
        shutil.copy(self.folder / COMPLETIONS, folder / COMPLETIONS)

    def _join(self) -> None:
        """Make one file of all; a batch at a time is in memory."""
        schema = self._schema()
        files = sorted(file for file in self.folder.glob("*.parquet") if file.name != COMPLETIONS)
        before = self.folder / COMPLETIONS
        if not files and before.is_file():
            return
        joined = self.folder / "joined"
        with pq.ParquetWriter(joined, schema) as writer:
            for table in _in_groups(schema, [before, *files] if before.is_file() else files):
                writer.write_table(table, row_group_size=ROWS)
        os.replace(joined, before)
        for file in files:
            file.unlink()

    def _schema(self) -> pa.Schema:
        return pa.schema([*BEFORE, *self.rewards, *(pa.field(name, pa.string()) for name in self._extra), *AFTER])


def _in_groups(schema: pa.Schema, files: Sequence[Path]) -> Iterator[pa.Table]:
    """Give the rows of files in tables of about ROWS rows, each with all columns."""
    waiting: list[pa.Table] = []
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(ROWS):
            waiting.append(_with_all(schema, pa.Table.from_batches([batch])))
            if sum(map(len, waiting)) >= ROWS:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _with_all(schema: pa.Schema, rows: pa.Table) -> pa.Table:
    names = set(rows.column_names)
    columns = [rows[field.name] if field.name in names else pa.nulls(len(rows), field.type) for field in schema]
    return pa.Table.from_arrays(columns, schema=schema)
