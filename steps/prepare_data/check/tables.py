"""Write the canonical rows of a part to an Arrow file, so that memory does not grow with the rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

ROWS_AT_ONCE = 2048
MOST_IMAGES = 64 * 1024 * 1024  # bytes of images that are in memory at a time


class TableWriter:
    """Writes canonical rows to an Arrow file, in batches of bounded size."""

    def __init__(self, file: Path, schema: pa.Schema):
        self.file, self.schema = file, schema
        self._writer = pa.ipc.new_file(str(file), schema)
        self._waiting: list[dict[str, Any]] = []
        self._images = 0

    def add(self, row: dict[str, Any]) -> None:
        """Add a row."""
        self._waiting.append(row)
        self._images += sum(map(len, row.get("images") or ()))
        if len(self._waiting) == ROWS_AT_ONCE or self._images > MOST_IMAGES:
            self._flush()

    def add_batch(self, batch: pa.RecordBatch) -> None:
        """Add rows that are a batch already."""
        self._flush()
        self._writer.write_batch(batch)

    def close(self) -> Path:
        """Finish the file, and return its path."""
        self._flush()
        self._writer.close()
        return self.file

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._waiting, self.schema))
            self._waiting, self._images = [], 0
