"""The number of rows that a file can have, and its first row, without reading large files."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from steps.sources import data_sources, storage
from steps.tasks.rules.json_text import as_json

FIRST_ROWS = 16  # of a Parquet file that may have images, which are large
SMALL = 1024 * 1024  # bytes of a file that is read whole to count its rows
UNPACKED = 64 * SMALL
TABLES = (".csv", ".tsv")
# What the readers raise for damaged files; prepare_data says what is wrong with them.
UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, LookupError, OverflowError, RecursionError, NotImplementedError,
    zlib.error,
)  # fmt: skip


def exact_rows(uri: str) -> int | None:
    """Return the number of rows of a local jsonl file; None for other and for packed files."""
    local = storage.local_path(uri)
    return _lines_in(local) if local is not None and local.suffix == ".jsonl" else None


def most_rows(uri: str, header: bool = True) -> int | None:
    """Return the highest number of rows that a local file can have; None where it would have to be read to tell.

    `header` is whether the first line of a table names its columns.
    """
    local = storage.local_path(uri)
    suffix = data_sources.suffix_of(uri)
    if local is None or not local.is_file():
        return None
    try:
        counted = _COUNTED[suffix](local) if suffix in _COUNTED else None
    except UNREADABLE:
        return None
    return counted - 1 if counted and header and suffix in TABLES else counted


def first_row(uri: str) -> dict[str, Any] | None:
    """Return the first row of a local jsonl or json file; None where it cannot be read so easily."""
    local = storage.local_path(uri)
    if local is None or not local.is_file():
        return None
    try:
        if uri.endswith((".jsonl", ".ndjson")):
            with open(local, "rb") as stream:
                row = json.loads(stream.readline(SMALL))
        else:
            row = json.loads(_content(local))[0]
        as_json(row)  # half a character, or too deep: prepare_data refuses it
    except UNREADABLE:
        return None
    return row if isinstance(row, dict) else None


def columns_in(uri: str) -> set[str] | None:
    """Return the columns of a small local jsonl or json file, or of a Parquet file; None where they are not known."""
    local = storage.local_path(uri)
    if local is None or not local.is_file():
        return None
    try:
        if local.suffix == ".parquet":
            import pyarrow.parquet as pq

            return set(pq.read_schema(local).names)
        if local.suffix not in (".jsonl", ".ndjson", ".json"):
            return None
        content = _content(local)
        rows = json.loads(content) if local.suffix == ".json" else [json.loads(line) for line in content.splitlines()]
        return {name for row in rows for name in row} if all(isinstance(row, dict) for row in rows) else None
    except UNREADABLE:
        return None


def has_values(uri: str, column: str) -> bool:
    """Return whether one of the first rows of a local jsonl, json or Parquet file has something in a column.

    False also where the plan cannot read the file so easily.
    """
    local = storage.local_path(uri)
    if local is None or not local.is_file():
        return False
    try:
        if local.suffix != ".parquet":
            return bool((first_row(uri) or {}).get(column))
        import pyarrow.parquet as pq

        if column not in (columns_in(uri) or ()):
            return False
        first = next(pq.ParquetFile(local).iter_batches(FIRST_ROWS, columns=[column]), None)
        return first is not None and any(first.column(0).to_pylist())
    except UNREADABLE:
        return False


def _lines(file: Path) -> int | None:
    if file.suffix == ".gz":
        content = _content(file)
        return content.count(b"\n") + (not content.endswith(b"\n"))
    with open(file, "rb") as stream:
        if stream.read(1) == b"[":
            return None  # a list of rows on one line, whatever the file's name says
    return _lines_in(file)


def _lines_in(file: Path) -> int:
    lines, last = 0, b"\n"
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _in_parquet(file: Path) -> int | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return int(pq.ParquetFile(file).metadata.num_rows)
    except pa.ArrowException:
        return None


def _in_list(file: Path) -> int | None:
    rows = json.loads(_content(file))
    return len(rows) if isinstance(rows, list) else None


def _content(file: Path) -> bytes:
    """Read a small file. Raises ValueError for a larger one."""
    if file.stat().st_size > SMALL:
        raise ValueError(f"{file} is too large to be read here")
    if file.suffix != ".gz":
        return file.read_bytes()
    with gzip.open(file) as stream:
        content = stream.read(UNPACKED)
    if len(content) == UNPACKED:
        raise ValueError(f"{file} is too large to be read here")
    return content


# Suffix → how rows are counted; a table has no more rows than lines.
_COUNTED = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".csv": _lines,
    ".tsv": _lines,
    ".parquet": _in_parquet,
    ".json": _in_list,
}
