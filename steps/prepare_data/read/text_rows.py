"""Read rows of plain text files, for pretraining: one row for each line, paragraph or file.

    Water boils at 100 °C.        {"text": "Water boils at 100 °C."}
                            →
    Ice melts at 0 °C.            {"text": "Ice melts at 0 °C."}

Line ends and blank lines around a row do not belong to it. A file is read line by line, so a large one needs memory
only for its longest row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steps.prepare_data.findings import TEXT_READ_AS, Findings
from steps.prepare_data.read.json_faults import not_utf8, nul_byte
from steps.prepare_data.read.json_rows import Row, row_too_long, skip_mark
from steps.prepare_data.read.sources import SourceFile


def read_text(source: SourceFile, column: str, findings: Findings) -> Iterator[Row]:
    """Yield {column: text} for each line, paragraph (text between blank lines) or file, as `source.sample_by` says."""
    what = f"read as plain text, one row for each {'file' if source.sample_by == 'document' else source.sample_by}"
    record = blank = 0
    for line, text in _pieces(source, findings):
        if not text.strip():
            blank += 1
            continue
        record += 1
        findings.repair(TEXT_READ_AS, what)
        yield record, line, {column: text}
    if blank and source.sample_by == "line":
        findings.repair("DATA-F0102", "blank lines skipped", blank)


def _pieces(source: SourceFile, findings: Findings) -> Iterator[tuple[int, str]]:
    """Yield the first line number and the text of each line, paragraph or file; lines may be blank."""
    lines: list[str] = []
    first = size = 0
    for number, line in _lines(source, findings):
        blank = not line.strip()
        if source.sample_by == "line":
            yield number, line
        elif blank and (source.sample_by == "paragraph" or not lines):
            if lines:
                yield first, "\n".join(lines)
            lines, size = [], 0
        else:
            first = first if lines else number
            lines.append(line)
            size += len(line) + 1
            if size > source.bounds.longest:
                findings.fault(row_too_long(source.bounds), 0, first)
                return
    if lines:
        yield first, "\n".join(lines).rstrip("\n")


def _lines(source: SourceFile, findings: Findings) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of every line, without its end."""
    offset = skip_mark(source.path, findings)
    longest = source.bounds.longest
    with open(source.path, "rb") as stream:
        stream.seek(offset)
        number = 0
        while raw := stream.readline(longest + 1):
            number += 1
            if len(raw) > longest:
                findings.fault(row_too_long(source.bounds), 0, number)
                return
            if fault := _byte_fault(raw, offset):
                findings.fault(fault, 0, number)
                return  # the encoding is wrong, or the file is no text
            offset += len(raw)
            text = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
            yield from ((number, part) for part in (text.split("\r") if "\r" in text else [text]))


def _byte_fault(raw: bytes, offset: int) -> Any:
    if b"\0" in raw:
        return nul_byte(offset + raw.index(b"\0"), 0)
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(raw, error.start, offset)
    return None
