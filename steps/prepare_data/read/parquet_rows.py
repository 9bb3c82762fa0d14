"""Read rows of parquet files, in batches and only the wanted columns."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.prepare_data.findings import Findings
from steps.prepare_data.read.arrow_nulls import cleaner
from steps.prepare_data.read.class_names import READ, UnknownClass, class_names, named
from steps.prepare_data.read.json_rows import NOT_FINITE, Row
from steps.prepare_data.read.sources import SourceFile
from steps.prepare_data.read.unpacking import FREE
from steps.tasks import NO_OTHERS, Fault, OtherColumns, as_found

ROWS_AT_ONCE = 1024
FIRST_ROWS = 16  # read before the size of a row is known: a single row may be very large
COLUMN = re.compile(r"[^.\[]*")  # at the start of a path inside a row
# Of Arrow, for values that Python cannot hold; the last one is for a time zone that nobody knows.
UNREADABLE = (ValueError, OverflowError, LookupError)
BATCH = 32 * 1024 * 1024  # approximate bytes of one batch in memory


def read_parquet(
    source: SourceFile, wanted: dict[str, str] | None, findings: Findings, others: OtherColumns = NO_OTHERS
) -> Iterator[Row]:
    """Yield the wanted columns of every row, and those of `others`; a row has a record number but no line.

    `wanted` maps parameters to column names; None means every column.
    """
    try:
        parquet = pq.ParquetFile(source.path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        findings.fault(_unreadable(source.path, error))
        return
    with parquet:
        names = parquet.schema_arrow.names
        every = wanted is None
        wanted = {name: name for name in names} if wanted is None else others.in_place(wanted, names)
        used = others.used(wanted, names)
        faults = list(_schema_faults(parquet.schema_arrow, wanted, used, others))
        for fault in faults:
            findings.fault(fault)
        if faults:
            return
        read = set(used)
        findings.unused += [name for name in names if name not in read]
        classes = _classes(parquet.schema_arrow, used, others, findings, every)
        yield from _rows(parquet, used, source, findings, every, set(wanted.values()), classes, others.raw)


def _classes(
    schema: pa.Schema, used: list[str], others: OtherColumns, findings: Findings, every: bool
) -> dict[str, list[str]]:
    """Return the columns whose numbers are to be read as names; warn if the user's function gets the numbers."""
    listed = class_names(schema)
    if every and listed:
        told = f"the file lists the names of classes ({', '.join(listed)}); processing_function gets their numbers"
        findings.warn("DATA-W0521", told)
    return {name: listed[name] for name in used if name in listed and name in others.classes and not every}


def layout(file: Path) -> dict[str, str]:
    """Return the columns of a file with their types, in its order; empty if it is not a readable parquet file."""
    with open(file, "rb") as stream:
        if stream.read(4) != b"PAR1":
            return {}
    try:
        return {field.name: str(field.type) for field in pq.read_schema(file)}
    except (pa.ArrowException, OSError):
        return {}


def differ(one: dict[str, str], other: dict[str, str]) -> bool:
    """Return whether the common columns of two files differ in order or type."""
    return [(name, kind) for name, kind in one.items() if name in other] != [
        (name, kind) for name, kind in other.items() if name in one
    ]


def _schema_faults(schema: pa.Schema, wanted: dict[str, str], used: list[str], others: OtherColumns) -> Iterator[Fault]:
    """Yield the faults that are visible in the schema."""
    names = schema.names
    counts = Counter(names)
    for name in used:
        if counts[name] > 1:
            yield Fault("DATA-E0504", name, f"{counts[name]} columns of this name", "every column name once",
                        "rename or remove one of them")  # fmt: skip
    yield from others.missing(names, wanted)


def _rows(
    parquet: pq.ParquetFile,
    names: list[str],
    source: SourceFile,
    findings: Findings,
    every: bool,
    judged: set[str],
    classes: dict[str, list[str]],
    raw: Collection[str],
) -> Iterator[Row]:
    """Yield rows with JSON values; with `every`, values that JSON cannot hold stay unchanged.

    The task judges numbers in the columns `judged`; numbers in `classes` become names; bytes in `raw` stay bytes.
    """
    told = _Told(findings)
    schema = parquet.schema_arrow
    kinds = {name: schema.field(name).type for name in names}
    read = [name for name in names if name not in raw]
    repairs = {n: repair for n in read if (repair := _repair_of(n, kinds[n], told, n in judged, classes.get(n)))}
    cleaners = {n: clean for n in names if (clean := cleaner(n, kinds[n], findings))}
    try:
        for batch in _batches(parquet, names, source, findings):
            for row in _as_rows(batch, told):
                told.record += 1
                if row is None:
                    continue
                for name, clean in cleaners.items():
                    row[name] = clean(row[name], told.record)
                fault = _repair(row, repairs)
                if fault and not every:
                    findings.fault(fault, told.record)
                else:
                    yield told.record, 0, row
    except (pa.ArrowException, OSError) as error:
        findings.fault(_broken_page(error), told.record + 1)


def _as_rows(batch: pa.RecordBatch, told: _Told) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a batch; None, and a fault, for one with a value that Python cannot hold.

    Such are texts that are not UTF-8, as some programs write, dates before the year 1 or after 9999, and clocks of
    unknown places.
    """
    try:
        yield from batch.to_pylist()
        return
    except UNREADABLE:
        pass
    for place in range(len(batch)):
        row = None
        try:
            [row] = batch.slice(place, 1).to_pylist()
        except UNREADABLE:
            told.findings.fault(next(_unreadable_values(batch.slice(place, 1))), told.record + 1)
        yield row


def _unreadable_values(row: pa.RecordBatch) -> Iterator[Fault]:
    """Yield a fault for each column of a batch of one row whose value Python cannot hold."""
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            column.to_pylist()
        except UnicodeDecodeError as error:
            yield _not_utf8(name, error)
        except UNREADABLE as error:
            yield _date(_first_line(error), column.type, name)


def _batches(
    parquet: pq.ParquetFile, names: list[str], source: SourceFile, findings: Findings
) -> Iterator[pa.RecordBatch]:
    """Yield batches of bounded size; stop with a fault if the file expands too much.

    A dictionary page with one long text for a million rows is small on disk and in the metadata; only the decoded
    batches show its real size.
    """
    size = source.path.stat().st_size
    limit, longest = max(FREE, size * source.max_expand), source.max_row_mib << 20
    first = next(parquet.iter_batches(FIRST_ROWS, columns=names), None)
    if first is None or not len(first):
        return
    first = _decoded(first)
    at_once = max(1, min(ROWS_AT_ONCE, BATCH // (first.nbytes // len(first) + 1)))
    read = start = 0
    for batch in map(_decoded, parquet.iter_batches(at_once, columns=names)):
        read += batch.nbytes
        if read > limit:
            fault = Fault("DATA-E0507", "", f"{size:,} bytes that unpack to more than {limit >> 20} MiB",
                          f"at most {source.max_expand} times its size, max_expand",
                          f"raise max_expand above {source.max_expand} if you trust the file")  # fmt: skip
            findings.fault(fault, start + 1)
            return
        if batch.nbytes > longest:
            large = [row for row in range(len(batch)) if batch.slice(row, 1).nbytes > longest]
            for row in large:
                fault = Fault("DATA-E0109", "", f"a row of more than {source.max_row_mib} MiB",
                              f"at most {source.max_row_mib} MiB, max_row_mib",
                              "split or remove the row, or raise max_row_mib")  # fmt: skip
                findings.fault(fault, start + row + 1)
            if large:
                return
        yield batch
        start += len(batch)


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Decode dictionary columns: a batch would keep the whole dictionary, and its size would be wrong."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type):
            batch = batch.set_column(place, field.name, batch.column(place).dictionary_decode())
    return batch


Repair = Callable[[Any], Any]


class _Told:
    """Counts the repairs of values, and knows the record that is being read."""

    def __init__(self, findings: Findings):
        self.findings = findings
        self.record = 0

    def repair(self, code: str, path: str, what: str, into: str) -> None:
        """Count a value that was read as something else, under the column that holds it."""
        self.findings.repair(code, f"{what} in the column {COLUMN.match(path)[0]} read as {into}")  # type: ignore[index]


def _repair_of(name: str, kind: pa.DataType, told: _Told, judged: bool, classes: list[str] | None) -> Repair | None:
    """Return the function that converts values of a column to JSON values; None if they already are.

    If the column is `judged`, numbers of any type that stand in it alone are left to the task.
    """
    if classes:
        return lambda value: _class_of(value, classes, name, told)
    if not _foreign(kind) or (judged and (pa.types.is_decimal(kind) or pa.types.is_floating(kind))):
        return None

    def repair(value: Any) -> Any:
        made = _repaired(value, kind, name, told)
        # A single map with role and content is a conversation of one message.
        return [made] if pa.types.is_map(kind) and {"role", "content"} <= made.keys() else made

    return repair


def _repair(row: dict[str, Any], repairs: dict[str, Repair]) -> Fault | None:
    """Convert a row in place; return the first fault of a value that cannot be converted, which stays unchanged."""
    first = None
    for name, repair in repairs.items():
        try:
            if row[name] is not None:
                row[name] = repair(row[name])
        except (_Refused, UnknownClass) as error:
            first = first or error.fault
    return first


def _class_of(value: Any, classes: list[str], name: str, told: _Told) -> Any:
    made = named(value, classes, name)
    if made != value:
        told.findings.repair(READ, f"numbers in the column {name} read as the classes that the file lists: "
                             f"{', '.join(classes)[:80]}")  # fmt: skip
    return made


class _Refused(Exception):
    def __init__(self, fault: Fault):
        self.fault = fault


def _foreign(kind: pa.DataType) -> bool:
    """Return whether values contain bytes, dates or maps, at any depth."""
    if pa.types.is_struct(kind):
        return any(_foreign(field.type) for field in kind)
    if _is_list(kind):
        return _foreign(kind.value_type)
    return _is_binary(kind) or any(
        test(kind) for test in (pa.types.is_temporal, pa.types.is_map, pa.types.is_decimal, pa.types.is_floating)
    )


def _repaired(value: Any, kind: pa.DataType, path: str, told: _Told) -> Any:
    """Convert bytes to text, maps to objects and decimals to numbers. Raises _Refused, always for dates."""
    if value is None or not _foreign(kind):
        return value
    if pa.types.is_floating(kind):
        return _finite(value, told)
    if pa.types.is_map(kind):
        return _object(value, kind, path, told)
    if pa.types.is_struct(kind):
        return {key: _repaired(inner, kind.field(key).type, f"{path}.{key}", told) for key, inner in value.items()}
    if _is_list(kind):
        return [_repaired(inner, kind.value_type, f"{path}[{n}]", told) for n, inner in enumerate(value)]
    if pa.types.is_temporal(kind):
        raise _Refused(_date(value, kind, path))
    if pa.types.is_decimal(kind):
        return _number(value, path, told)
    return _text(value, path, told)


def _finite(value: float, told: _Told) -> float | None:
    if math.isfinite(value):
        return value
    told.findings.warn(*NOT_FINITE, told.record)
    return None


def _number(value: Decimal, path: str, told: _Told) -> float | int:
    """Return the number that a decimal is. Raises _Refused if no JSON number is exactly the same.

    Whole numbers of more than 64 bits stay as written inside nested JSON only (`steps/tasks/rules/json_text.py`).
    """
    whole = value == value.to_integral_value()
    made = int(value) if whole else float(value)
    too_wide = COLUMN.fullmatch(path) and whole and not -(2**63) <= made < 2**64
    if Decimal(repr(made)) != value or too_wide:
        raise _Refused(
            Fault("DATA-E0522", path, f"the decimal {value}", "a number that JSON can hold exactly",
                  "store the column as text, or as numbers")
        )  # fmt: skip
    told.repair("DATA-F0522", path, "decimals", "numbers")
    return made


def _text(value: bytes, path: str, told: _Told) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Refused(_not_utf8(path, error)) from None
    told.repair("DATA-F0502", path, "bytes", "text")
    return text


def _not_utf8(path: str, error: UnicodeDecodeError) -> Fault:
    return Fault("DATA-E0503", path, f"byte 0x{error.object[error.start]:02X} at position {error.start} of the value",
                 "UTF-8 text", "store the column as strings")  # fmt: skip


def _date(value: object, kind: pa.DataType, path: str) -> Fault:
    return Fault("DATA-E0506", path, f"{as_found(str(value))}, of type {kind}", "text",
                 "cast the column to text when you write the file; ISO 8601 is a good form")  # fmt: skip


def _object(pairs: list[tuple[Any, Any]], kind: pa.DataType, path: str, told: _Told) -> dict[str, Any]:
    keys = [str(key) for key, _ in pairs]  # a key may be a list or an object
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _Refused(
            Fault("DATA-E0508", path, f"a map with the key {as_found(twice)} twice", "every key once",
                  "store the column as a list of structs")
        )  # fmt: skip
    told.repair("DATA-F0507", path, "maps", "objects")
    return {str(key): _repaired(inner, kind.item_type, f"{path}.{key}", told) for key, inner in pairs}


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def _unreadable(file: Path, error: Exception) -> Fault:
    with open(file, "rb") as stream:
        first = stream.read(4)
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - 4))
        last = stream.read(4)
    if last == b"PARE" or first == b"PARE":
        return _encrypted()
    if first != b"PAR1":
        return Fault("DATA-E0501", "", f"a file that starts with {as_found(first.decode('latin-1'))}",
                     "a parquet file", "use the suffix of the file's real format")  # fmt: skip
    if last != b"PAR1":
        return Fault(
            "DATA-E0501",
            "",
            "no footer at the end",
            "a complete parquet file",
            "upload the file again; it is truncated",
        )
    return Fault("DATA-E0502", "", f"a footer that cannot be read ({_first_line(error)})", "an intact file",
                 "upload the file again; it is damaged")  # fmt: skip


def _broken_page(error: Exception) -> Fault:
    if "encrypt" in str(error).lower() or "decrypt" in str(error).lower():
        return _encrypted()
    return Fault("DATA-E0502", "", f"a page that cannot be read ({_first_line(error)})", "an intact file",
                 "upload the file again; it is damaged")  # fmt: skip


def _encrypted() -> Fault:
    return Fault("DATA-E0505", "", "an encrypted parquet file", "an unencrypted file", "write it without encryption")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:80] if str(error) else type(error).__name__
