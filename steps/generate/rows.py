"""The rows of the data artifact, read some thousand at a time: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.errors import Problem, UserError
from steps.params.settings import GenerateSettings
from steps.tasks import load_task
from steps.tasks.rules.json_text import from_json
from steps.tasks.rules.messages import unpacked

ROWS_FILE = "rows/test.parquet"
BLOCK = 1000  # rows in memory at a time; prepare_data writes row groups of this size
SEGMENT = 8192  # rows of a shard, and of a part of the journal


@dataclass(frozen=True)
class InputRow:
    """One row of the input: a plain text or a conversation."""

    number: int
    text: str | None
    messages: list[dict[str, Any]] | None
    tools: list[Any] | None = None
    reference: str | None = None
    id: str | None = None
    more: str | None = None
    """All other columns as one JSON object."""


class InputRows:
    """The rows of `rows/test.parquet`. Raises UserError if there are none."""

    def __init__(self, data: Path, settings: GenerateSettings):
        file = data / ROWS_FILE
        if not file.is_file() or not pq.read_metadata(file).num_rows:
            raise UserError(
                Problem("GEN-E0221", str(data), "no row to answer", "at least one row of prompts",
                        "prepare data with prompts as its test rows")
            )  # fmt: skip
        self._file = pq.ParquetFile(file)
        self._read = _reader(settings)
        self.count: int = self._file.metadata.num_rows

    @property
    def segments(self) -> int:
        """Number of segments of SEGMENT rows; the last one may be shorter."""
        return -(-self.count // SEGMENT)

    def bounds(self, segment: int) -> tuple[int, int]:
        """Return the first row of a segment, and the one after its last."""
        return segment * SEGMENT, min((segment + 1) * SEGMENT, self.count)

    def between(self, start: int, stop: int) -> Iterator[InputRow]:
        """Give the rows from `start` up to `stop`."""
        for first, block in self.blocks(start, stop):
            for place, raw in enumerate(block.to_pylist()):
                yield self._read(first + place, raw)

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Give the canonical rows from `start` up to `stop` in blocks, each with the number of its first row."""
        end = self.count if stop is None else stop
        first = 0  # of the row group
        for group in range(self._file.num_row_groups):
            size = self._file.metadata.row_group(group).num_rows
            if first < end and first + size > start:
                here = first
                for block in self._file.iter_batches(BLOCK, row_groups=[group]):
                    low, high = max(start - here, 0), min(end - here, len(block))
                    if low < high:
                        yield here + low, block.slice(low, high - low)
                    here += len(block)
            first += size


def _reader(settings: GenerateSettings) -> Callable[[int, dict[str, Any]], InputRow]:
    if settings.task == "prompts":
        return _prompt
    module = load_task(settings.task)
    columns = module.Columns(**settings.columns)

    def read(number: int, raw: dict[str, Any]) -> InputRow:
        question = module.question(raw, columns)
        if question is None:
            raise UserError(
                Problem("GEN-E0222", f"row {number}", "no question", f"a row of {settings.task} with a question",
                        "remove the row, or prepare the data with task=prompts")
            )  # fmt: skip
        asked, reference = question
        if isinstance(asked, str):
            return InputRow(number, asked, None, reference=reference)
        return InputRow(number, None, asked, module.training_row(raw, columns).get("tools"), reference)

    return read


def _prompt(number: int, raw: dict[str, Any]) -> InputRow:
    """Read a canonical row of the task prompts."""
    talk, tools = raw["prompt"], raw["tools"]
    return InputRow(
        number,
        None if talk is not None else raw["text"],
        None if talk is None else unpacked(talk),
        from_json(tools) if tools else None,
        raw["reference"],
        raw["id"],
        raw["more"],
    )
