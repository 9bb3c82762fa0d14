"""Read rows of csv and tsv files: the first line names the columns, every cell is text.

No types are inferred: "NA" stays text, 007 keeps its zeros, an empty cell is an empty text. A record may span several
lines, so both its number and its first line are counted.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from steps.prepare_data.findings import Findings
from steps.prepare_data.read.json_faults import not_utf8, nul_byte
from steps.prepare_data.read.json_rows import BLOCK, Row, skip_mark
from steps.prepare_data.read.sources import SourceFile
from steps.tasks import NO_OTHERS, Fault, OtherColumns, as_found

TAB = "\t"
DELIMITERS = {"csv": ",", "tsv": "\t"}
NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar", ":": "colon", " ": "blank"}


def read_csv(
    source: SourceFile, wanted: dict[str, str] | None, findings: Findings, others: OtherColumns = NO_OTHERS
) -> Iterator[Row]:
    """Yield the wanted columns of every record, and those of `others`.

    `wanted` maps parameters to column names; None means every column.
    """
    lines = _Lines(source.path, findings, source.max_row_mib)
    delimiter = source.delimiter
    records = _records(lines, source, findings)
    header = next(records, None)
    if header is None or header[0] != 0:  # an unreadable header was reported, and the next record is not a header
        return
    names = header[2]
    if not source.header:  # use MLTable's default names; the first record is a row too
        names = [f"Column{number}" for number in range(1, len(names) + 1)]
        records = ((record + 1, line, fields) for record, line, fields in chain([header], records))
    wanted = {name: name for name in names} if wanted is None else others.in_place(wanted, names)
    if faults := list(_header_faults(names, delimiter, wanted, others)):
        for fault in faults:
            findings.fault(fault, 0, header[1])
        return
    used = others.used(wanted, names)
    place_of = {name: place for place, name in enumerate(names)}
    places = [(name, place_of.pop(name)) for name in used]
    findings.unused += place_of
    for record, line, fields in records:
        if source.header and _is_header(fields, names):
            findings.repair("DATA-F0308", "the header again, as between joined files: not a row")
        elif len(fields) != len(names):
            findings.fault(_wrong_length(fields, len(names), delimiter), record, line)
        else:
            yield record, line, {name: fields[place] for name, place in places}


def _is_header(fields: list[str], names: list[str]) -> bool:
    """Return whether a record is the header of another file that was appended, perhaps with its byte order mark."""
    return fields[1:] == names[1:] and (fields[0] == names[0] or fields[0].lstrip("\ufeff").strip('"') == names[0])


class _Lines:
    """The lines of a file as text; counts physical lines and keeps those of the current record."""

    def __init__(self, file: Path, findings: Findings, longest_mib: int):
        self.file, self.findings, self.longest_mib = file, findings, longest_mib
        self.number = 0
        """Number of lines read so far."""
        self.current: list[str] = []
        """Lines of the record that is being read."""
        self.fault: Fault | None = None
        """The fault in the bytes of one of them."""

    def __iter__(self) -> Iterator[str]:
        offset = skip_mark(self.file, self.findings)
        for raw in _split(self.file, offset, self.longest_mib << 20):
            self.number += 1
            if self.number == 1 and raw.endswith(b"\r"):
                self.findings.repair("DATA-F0103", "CR without LF was read as a line end")
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                self.fault = not_utf8(raw, error.start, offset)
                text = raw.decode("utf-8", "replace")
            if "\0" in text:
                self.fault = nul_byte(raw.index(b"\0"), offset)
                text = text.replace("\0", " ")
            offset += len(raw)
            self.current.append(text)
            yield text


def _split(file: Path, start: int, longest: int) -> Iterator[bytes]:
    r"""Yield lines with their ends: `\n`, `\r\n` or `\r`; other Unicode line separators do not end a line."""
    rest = b""
    with open(file, "rb") as stream:
        stream.seek(start)
        while block := stream.read(BLOCK):
            lines = (rest + block).splitlines(keepends=True)
            rest = lines.pop()  # also when it ends in \r: the next block may start with its \n
            yield from lines
            if len(rest) > longest:
                break
    if rest:
        yield rest


def _records(lines: _Lines, source: SourceFile, findings: Findings) -> Iterator[tuple[int, int, list[str]]]:
    """Yield (record, line, fields); record 0 is the header. Report records that are not valid csv."""
    csv.field_size_limit(source.max_row_mib << 20)
    delimiter = source.delimiter
    reader = csv.reader(iter(lines), delimiter=delimiter, escapechar=source.escapechar or None, strict=True)
    record, blank = -1, 0
    while True:
        lines.current.clear()
        lines.fault = None
        start = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            record += 1
            findings.fault(*_broken(lines.current, start, str(error), source, record))
            continue
        if not fields or (len(fields) == 1 and not fields[0].strip()):
            blank += 1
            continue
        record += 1
        if lines.fault:
            findings.fault(lines.fault, record, start)
        else:
            yield record, start, fields
    if blank:
        findings.repair("DATA-F0102", "blank lines skipped", blank)


def _header_faults(names: list[str], delimiter: str, wanted: dict[str, str], others: OtherColumns) -> Iterator[Fault]:
    delimiters = [other for other in NAMES if other != delimiter and other in names[0]]
    if len(names) == 1 and delimiters and names[0] not in wanted.values():
        other = delimiters[0]
        yield Fault("DATA-E0304", "", f"a header with 1 field {as_found(names[0])}",
                    f"{_name(delimiter)}s between the columns, not {NAMES[other]}s",
                    f"set delimiter={'tab' if other == TAB else other}")  # fmt: skip
        return
    for name, count in Counter(names).items():
        if count > 1:
            yield Fault("DATA-E0306", name, f"{count} columns of this name", "every column name once",
                        "rename or remove one of them")  # fmt: skip
    yield from others.missing(names, wanted)


def _wrong_length(fields: list[str], expected: int, delimiter: str) -> Fault:
    found = f"{len(fields)} field{'s' if len(fields) > 1 else ''}"
    if len(fields) < expected:
        return Fault("DATA-E0301", "", found, f"{expected} as in the header",
                     "add the missing cells; an empty one still needs its delimiter")  # fmt: skip
    if not any(fields[expected:]):
        return Fault("DATA-E0305", "", f"{found}, the last one empty", f"{expected} as in the header",
                     f"remove the {_name(delimiter)} at the end of the line")  # fmt: skip
    return Fault("DATA-E0302", "", f"{found}: {as_found(fields[expected:][0])} is one too many",
                 f"{expected} as in the header",
                 f"put cells that contain a {_name(delimiter)} in double quotes")  # fmt: skip


def _name(delimiter: str) -> str:
    return NAMES.get(delimiter, repr(delimiter))


def _broken(lines: list[str], start: int, message: str, source: SourceFile, record: int) -> tuple[Fault, int, int]:
    """Return the fault of a record that is not valid csv: an unclosed quote (at its opening line) or an extra quote."""
    delimiter = source.delimiter
    if "field limit" in message and len(lines) == 1:
        fault = Fault("DATA-E0109", "", f"a row of more than {source.max_row_mib} MiB", f"at most {source.max_row_mib} "
                      "MiB, max_row_mib", "split or remove the row, or raise max_row_mib")  # fmt: skip
        return fault, record, start
    text = "".join(lines)
    opened, closed = _last_quoted_field(text, delimiter)
    opening_line = start + text[:opened].replace("\r\n", "\n").replace("\r", "\n").count("\n")
    if closed and text[closed - 1] == "\\":
        fault = Fault("DATA-E0307", "", as_found(text[max(0, closed - 20) : closed + 20]),
                      'a quote inside a cell written as "", not as \\"',
                      "double the quotes inside cells, or set escapechar=\\")  # fmt: skip
        return fault, record, opening_line
    if closed and "\n" not in text[opened:closed].replace("\r", "\n"):
        fault = Fault("DATA-E0307", "", f"{as_found(text[closed : closed + 20])} after a closing quote",
                      f"a {_name(delimiter)} or the end of the line", "double the quotes inside cells")  # fmt: skip
        return fault, record, opening_line
    fault = Fault("DATA-E0303", "", f"a quote that is never closed: {as_found(text[opened : opened + 40])}",
                  "a closing quote in the same cell",
                  "close the quote, or double it if it belongs to the text")  # fmt: skip
    return fault, record, opening_line


def _last_quoted_field(text: str, delimiter: str) -> tuple[int, int]:
    """Find the invalid quoted cell of a record: its opening quote, and a closing quote followed by text (else 0)."""
    position, opened = 0, 0
    while position < len(text):
        if text[position] != '"':  # a cell without quotes
            ends = [end for end in (text.find(c, position) for c in (delimiter, "\n", "\r")) if end >= 0]
            position = min(ends, default=len(text)) + 1
            continue
        opened, position = position, position + 1
        while (quote := text.find('"', position)) >= 0 and text[quote + 1 : quote + 2] == '"':
            position = quote + 2
        if quote < 0:
            return opened, 0
        follower = text[quote + 1 : quote + 2]
        if follower not in (delimiter, "\n", "\r", ""):
            return opened, quote
        position = quote + 2
    return opened, 0
