"""Rows of parquet files: only the wanted columns are read, a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.prepare_data.findings import Findings
from steps.prepare_data.json_rows import Row
from steps.tasks import NO_OTHERS, Fault, OtherColumns, as_found, missing_columns

ROWS_AT_ONCE = 1024


def read_parquet(
    file: Path, wanted: dict[str, str], findings: Findings, others: OtherColumns = NO_OTHERS
) -> Iterator[Row]:
    """Yield the wanted columns of every row, and `others`; a row has a record number but no line."""
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        findings.fault(_unreadable(file, error))
        return
    with parquet:
        names = parquet.schema_arrow.names
        wanted = others.in_place(wanted, names)
        used = others.used(wanted, names)
        doubled = [name for name in used if names.count(name) > 1]
        for name in doubled:
            findings.fault(Fault("DATA-E0504", name, f"{names.count(name)} columns of this name",
                                 "every column name once", "rename or remove one of them"))  # fmt: skip
        absent = list(missing_columns(names, wanted))
        for fault in absent:
            findings.fault(fault)
        if doubled or absent:
            return
        if extra := [name for name in names if name not in used]:
            findings.repair("DATA-F0601", f"columns not used: {', '.join(extra)}")
        yield from _rows(parquet, used, findings)


def _rows(parquet: pq.ParquetFile, names: list[str], findings: Findings) -> Iterator[Row]:
    record = 0
    binary = [n for n in names if _is_binary(parquet.schema_arrow.field(n).type)]
    try:
        for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=names):
            for row in batch.to_pylist():
                record += 1
                if not binary or _decode(row, binary, record, findings):
                    yield record, 0, row
    except (pa.ArrowException, OSError) as error:
        fault = Fault("DATA-E0502", "", f"a page that cannot be read ({_first_line(error)})", "a whole file",
                      "upload the file again; it was damaged")  # fmt: skip
        findings.fault(fault, record + 1)


def _decode(row: dict[str, Any], binary: list[str], record: int, findings: Findings) -> bool:
    """Turn bytes into text where they are UTF-8; note the row otherwise."""
    for name in binary:
        if row[name] is None:
            continue
        try:
            row[name] = row[name].decode("utf-8")
            findings.repair("DATA-F0502", f"bytes in the column {name} read as text")
        except UnicodeDecodeError as error:
            byte = row[name][error.start]
            findings.fault(Fault("DATA-E0503", name, f"byte 0x{byte:02X} at position {error.start} of the value",
                                 "UTF-8 text", "store the column as strings"), record)  # fmt: skip
            return False
    return True


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _unreadable(file: Path, error: Exception) -> Fault:
    with open(file, "rb") as stream:
        first = stream.read(4)
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - 4))
        last = stream.read(4)
    if last == b"PARE" or first == b"PARE":
        return Fault("DATA-E0505", "", "an encrypted parquet file", "a plain one", "write it without encryption")
    if first != b"PAR1":
        return Fault("DATA-E0501", "", f"no parquet file: it starts with {as_found(first.decode('latin-1'))}",
                     "a parquet file", "name the file by what it holds")  # fmt: skip
    if last != b"PAR1":
        return Fault(
            "DATA-E0501", "", "no footer at the end", "a whole parquet file", "upload the file again; it was cut"
        )
    return Fault("DATA-E0502", "", f"a footer that cannot be read ({_first_line(error)})", "a whole file",
                 "upload the file again; it was damaged")  # fmt: skip


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
