"""Detect the format of a file and read its rows.

The suffix gives the intended format, the first bytes the real one; a disagreement is reported. To add a format: a
reader that yields (record, line, row), a row in SUFFIXES and a line in `read_rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import orjson

from steps.prepare_data.findings import Findings
from steps.prepare_data.read.csv_rows import DELIMITERS, read_csv
from steps.prepare_data.read.json_rows import BOM, DEFAULT, Row, read_json, read_jsonl
from steps.prepare_data.read.parquet_rows import read_parquet
from steps.prepare_data.read.sources import SourceFile
from steps.prepare_data.read.text_rows import read_text
from steps.sources.data_sources import SUFFIXES, TEXT_SUFFIX, suffix_of
from steps.tasks import NO_OTHERS, Fault, OtherColumns, as_found

# First bytes → what the file is, and the fix.
SIGNATURES = {
    b"\x1f\x8b": ("a gzip file (by its first bytes)", "rename it to {name}.gz"),
    b"PK\x03\x04": ("a zip file", "unpack it"),
    b"BZh": ("a bzip2 file", "unpack it with bunzip2"),
    b"\x28\xb5\x2f\xfd": ("a zstandard file", "unpack it with zstd -d"),
    b"\xfd7zXZ": ("an xz file", "unpack it with xz -d"),
}
WIDE_TEXT = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
WIDE_HEAD = 16  # bytes of a file that show its encoding: the first characters of every format are ASCII
HEAD = 64 * 1024


def read_rows(
    file: SourceFile | Path,
    kind: str,
    wanted: dict[str, str] | None,
    findings: Findings,
    others: OtherColumns = NO_OTHERS,
) -> Iterator[Row]:
    """Yield (record, line, row) of every readable row; `wanted` maps parameters to required column names.

    `kind` is the result of `detect`. Rows of csv, tsv and parquet files have only the wanted columns and those of
    `others`, or all columns with None; rows of json files are unchanged. Everything else is reported in `findings`,
    under the file's name as the user wrote it.
    """
    source = _as_source(file, findings)
    if kind == "jsonl":
        yield from read_jsonl(source.path, findings, source.bounds)
    elif kind == "json":
        yield from read_json(source.path, findings, source.bounds)
    elif kind == "parquet":
        yield from read_parquet(source, wanted, findings, others)
    elif kind == "txt":
        yield from read_text(source, next(iter((wanted or {}).values()), "text"), findings)
    elif kind:
        delimiter = source.delimiter or DELIMITERS[kind]
        yield from read_csv(replace(source, delimiter=delimiter), wanted, findings, others)


def _as_source(file: SourceFile | Path, findings: Findings) -> SourceFile:
    return SourceFile(file, findings.name) if isinstance(file, Path) else file


def detect(file: SourceFile | Path, findings: Findings, texts: bool = False) -> str:
    """Return the format of a file: jsonl, json, csv, tsv or parquet; "" and a fault if it is none of them.

    With `texts`, a .txt file without JSON is plain text (txt).
    """
    source = _as_source(file, findings)
    file = source.path
    with open(file, "rb") as stream:
        head = stream.read(HEAD)
    if fault := _not_text(head, PurePosixPath(findings.name).name):
        findings.fault(fault)
        return ""
    if source.format:  # set by an MLTable or by the library datasets
        return source.format
    suffix = suffix_of(findings.name)
    kind = SUFFIXES.get(suffix, "")
    if head[:4] in (b"PAR1", b"PARE") or kind == "parquet":
        return "parquet"
    first, more = _first_line(file)
    if not first:
        findings.fault(Fault("DATA-E0102", "", "only whitespace", "rows", "upload the file again"))
        return ""
    if texts and suffix == TEXT_SUFFIX and not first.startswith(b"[{") and not (first[:1] == b"{" and _is_json(first)):
        return "txt"
    if kind in ("csv", "tsv") and first[:2] not in (b'{"', b"[{"):
        return kind
    return _which_json(kind, suffix, first, more, findings)


def _not_text(head: bytes, name: str) -> Fault | None:
    if not head:
        return Fault("DATA-E0101", "", "0 bytes", "rows", "upload the file again")
    for start, (what, fix) in SIGNATURES.items():
        if head.startswith(start):
            return Fault("DATA-E0106", "", what, "jsonl, json, csv, tsv or parquet", fix.format(name=name))
    for start, name in WIDE_TEXT.items():
        if head.startswith(start):
            return Fault("DATA-E0104", "", name, "UTF-8", f"convert the file: iconv -f {name} -t UTF-8")
    if len(head) > 1 and b"\0" in head[:WIDE_HEAD]:
        start = head[:WIDE_HEAD]
        for kind, step, place in (("UTF-32LE", 4, 0), ("UTF-32BE", 4, 3), ("UTF-16LE", 2, 0), ("UTF-16BE", 2, 1)):
            text, rest = start[place::step], [start[n::step] for n in range(step) if n != place]
            if not text.count(0) and all(set(part) == {0} for part in rest):
                return Fault("DATA-E0104", "", f"{kind} without a byte order mark", "UTF-8",
                             f"convert the file: iconv -f {kind} -t UTF-8")  # fmt: skip
    return None


def _first_line(file: Path) -> tuple[bytes, bool]:
    """Return the first line that is not blank, and whether anything follows it."""
    with open(file, "rb") as stream:
        if stream.read(len(BOM)) != BOM:
            stream.seek(0)
        first = b""
        while not first and (line := stream.readline(DEFAULT.longest)):
            first = line.strip()
        return first, bool(stream.read(HEAD).strip())


def _which_json(kind: str, suffix: str, first: bytes, more: bool, findings: Findings) -> str:
    """Distinguish a list of rows from a row on each line by the content, because suffixes are often wrong."""
    if kind in ("csv", "tsv"):
        found, fix = f"JSON: {as_found(first[:40].decode('utf-8', 'replace'))}", "name the file .jsonl or .json"
    elif first[:1] == b"[":
        if kind != "jsonl":
            return "json"
        if more and _is_json(first):
            return "jsonl"  # a list on each line: each line is reported as a fault
        findings.repair("DATA-F0201", "a JSON list, read as .json")
        findings.warn("DATA-W2401", f"the suffix {suffix} means one row on each line: name the file .json")
        return "json"
    elif first[:1] == b"{" or kind:
        if kind == "json" and more and _is_json(first):
            findings.repair("DATA-F0202", "an object on each line, read as .jsonl")
            return "jsonl"
        return kind or "jsonl"
    else:
        found, fix = f"the suffix {suffix!r}", f"use the suffix of the file's real format: {', '.join(SUFFIXES)}"
    findings.fault(Fault("DATA-E0107", "", found, kind or "jsonl, json, csv, tsv or parquet", fix))
    return ""


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
