"""Write the parquet files of one split, and the facts about them.

Equal input gives equal bytes: fixed row groups, fixed compression, nothing that depends on time or machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from steps.prepare_data.check.rows import Rows
from steps.prepare_data.write.packing import ROWS_PACKED_TOGETHER, pack
from steps.prepare_data.write.tokenising import NO_LOSS, Tokens

ROW_GROUP = 1000
# page checksums: a reader can distinguish a damaged page from a wrong row (pyarrow: page_checksum_verification=True)
FIXED: dict[str, Any] = {"compression": "zstd", "compression_level": 3, "version": "2.6", "write_page_checksum": True}
BARS = 20
SAMPLE_TOKENS = 400
NUMBERS = pa.list_(pa.field("item", pa.int32()))


def write_rows(file: Path, rows: Rows, group: int = ROW_GROUP) -> None:
    """Write canonical rows, `group` of them at a time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(file, rows.schema, **FIXED) as writer:
        for start in range(0, len(rows), group):
            writer.write_table(rows.table(start, start + group).combine_chunks())


class TokenWriter:
    """Writes and counts token rows, packed if requested."""

    def __init__(self, file: Path, max_length: int, packing: bool):
        file.parent.mkdir(parents=True, exist_ok=True)
        self.max_length, self.packing = max_length, packing
        fields = [("input_ids", NUMBERS), ("labels", NUMBERS)]
        self._writer = pq.ParquetWriter(file, pa.schema(fields + [("seq_lengths", NUMBERS)] * packing), **FIXED)
        self._waiting: list[Tokens] = []
        self.sequences = self.tokens = self.supervised = 0

    def add(self, tokens: Tokens) -> None:
        """Add the tokens of some rows, none longer than max_length."""
        self._waiting.append(tokens)
        if sum(map(len, self._waiting)) >= ROWS_PACKED_TOGETHER:
            waiting = Tokens.joined(self._waiting)
            whole = len(waiting) // ROWS_PACKED_TOGETHER * ROWS_PACKED_TOGETHER
            for start in range(0, whole, ROWS_PACKED_TOGETHER):
                self._write(waiting.between(start, start + ROWS_PACKED_TOGETHER))
            self._waiting = [waiting.between(whole, len(waiting))]

    def close(self) -> None:
        """Write the remaining rows and close the file."""
        if self._waiting and len(rest := Tokens.joined(self._waiting)):
            self._write(rest)
        self._writer.close()

    def facts(self) -> dict[str, Any]:
        """Return the counts of the written rows."""
        room = self.sequences * self.max_length
        return {
            "sequences": self.sequences,
            "tokens": self.tokens,
            "supervised_tokens": self.supervised,
            "fill": round(self.tokens / room, 4) if self.packing and room else None,
        }

    def _write(self, tokens: Tokens) -> None:
        columns = []
        if self.packing:
            packed = pack(tokens, self.max_length)
            tokens = packed.tokens
            columns = [_lists(packed.row_lengths, packed.rows_in)]
        columns = [_lists(tokens.ids, tokens.lengths), _lists(tokens.labels, tokens.lengths), *columns]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._writer.schema))
        self.sequences += len(tokens)
        self.tokens += len(tokens.ids)
        self.supervised += int((tokens.labels != NO_LOSS).sum())


def length_facts(lengths: np.ndarray) -> dict[str, Any]:
    """Describe the lengths of rows in tokens, before truncation: minimum, median, 95 %, maximum, histogram."""
    edges = np.unique(np.linspace(0, max(int(lengths.max()), 1), BARS + 1).round().astype(int))
    counts, _ = np.histogram(lengths, edges)
    return {
        "length": {
            "min": int(lengths.min()),
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def sample(tokenizer: Any, tokens: Tokens, row: int) -> dict[str, Any]:
    """Return one training row token by token, with a mark on tokens with loss, for the report."""
    start = tokens.starts[row]
    end = min(tokens.starts[row + 1], start + SAMPLE_TOKENS)
    pairs = zip(tokens.ids[start:end].tolist(), tokens.labels[start:end].tolist(), strict=True)
    return {
        "split": "train",
        "tokens": [{"text": tokenizer.decode([token]), "supervised": label != NO_LOSS} for token, label in pairs],
    }


def _lists(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.int32, copy=False)), type=NUMBERS)
