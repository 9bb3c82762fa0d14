"""Read rows of jsonl files (an object on each line) and of json files (a list of objects).

Both are read in blocks, so a file of any size needs memory only for its longest row. Only `\\n` ends a line, because
splitting at other Unicode line separators would create wrong rows, and line numbers are counted across blocks.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from steps.prepare_data.findings import Findings
from steps.prepare_data.read.json_faults import Bounds, Reading, deepest, duplicate_key, explain, too_deep
from steps.tasks import Fault, as_found, kind_of
from steps.tasks.rules.json_text import LONG_BYTES, as_bytes, exact, has_long_number

BLOCK = 1024 * 1024
DEFAULT = Bounds()
BOM = b"\xef\xbb\xbf"
MARK_REMOVED = ("DATA-F0101", "byte order mark removed")

NOT_FINITE = ("DATA-W0201", "NaN or infinity was read as null")

Row = tuple[int, int, dict[str, Any]]
"""Record (1 is the first row), physical line, value."""

# The text between two brackets: complete strings, and all other characters except brackets. Possessive quantifiers
# (++, *+), because a failed match must not backtrack.
OUTSIDE = re.compile(rb'(?:[^"{}\[\],]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
INSIDE = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
SPACE = b" \t\r\n"


def read_jsonl(file: Path, findings: Findings, bounds: Bounds = DEFAULT) -> Iterator[Row]:
    """Yield every line that is an object; report the others in `findings`."""
    reader = JsonLines(findings, skip_mark(file, findings), bounds=bounds)
    for block in read_blocks(file, reader.offset, bounds=bounds):
        yield from reader.rows(block)
        if reader.stopped:
            return
    reader.close()


class JsonLines:
    """Reads and counts the lines of a file, or of a part of it, block by block."""

    def __init__(self, findings: Findings, offset: int = 0, whole: bool = True, bounds: Bounds = DEFAULT):
        self.findings = findings
        self.bounds = bounds
        self.whole = whole
        """Whether the first line is that of the file."""
        self.offset = offset
        """Offset of the next line in the file."""
        self.record = self.line = self.blank = 0
        self.stopped = False
        """Reading stopped, because nothing after this line can be parsed."""
        self._unfinished: tuple[Fault, int, int] | None = None
        """A line that ends in the middle; the next line shows whether the file was truncated or the row continues."""

    def rows(self, block: bytes) -> Iterator[Row]:
        """Yield the objects of a block of complete lines."""
        loads, bounds = orjson.loads, self.bounds
        longest, deepest = bounds.longest, bounds.max_nesting
        if len(block) > longest and block.find(b"\n", 0, longest + 1) < 0:
            self._refuse_long_row()
            return
        plain = not has_long_number(block)
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        for raw in lines:
            self.line += 1
            start, self.offset = self.offset, self.offset + len(raw) + 1
            if raw.startswith(BOM):  # files with a mark were joined
                raw, start = raw[len(BOM) :], start + len(BOM)
                self.findings.repair(*MARK_REMOVED)
            if not raw or raw.isspace():
                self.blank += 1
                continue
            if self._unfinished and not self._goes_on(raw):
                return
            self.record += 1
            try:  # the common case, without another function call
                if (
                    plain
                    and type(value := loads(raw)) is dict
                    and _is_plain(raw, value, deepest)
                    and (b"\\u0000" not in raw)
                ):
                    yield self.record, self.line, value
                    continue
            except orjson.JSONDecodeError:
                pass
            value, stops = _read_row(raw, self.record, self.line, start, self.findings, bounds)
            if value is not None:
                yield self.record, self.line, value
            elif stops:
                self._unfinished = (stops, self.record, self.line)

    def skip(self, rows: int, size: int) -> None:
        """Count rows of one line each that another reader has read."""
        if self._unfinished:
            self._goes_on(b"{")
        self.record += rows
        self.line += rows
        self.offset += size

    def close(self, last: bool = True) -> None:
        """Report what is only known at the end of the file or part."""
        if self._unfinished:
            self.findings.fault(_cut() if last else self._unfinished[0], *self._unfinished[1:])
        if self.blank:
            self.findings.repair("DATA-F0102", "blank lines skipped", self.blank)

    def _goes_on(self, raw: bytes) -> bool:
        """Report the unfinished line before this one; return False if the file is not jsonl at all."""
        assert self._unfinished
        fault, record, line = self._unfinished
        self._unfinished = None
        self.stopped = record == 1 and self.whole and not raw.startswith(b"{")
        self.findings.fault(_pretty_printed() if self.stopped else fault, record, line)
        return not self.stopped

    def _refuse_long_row(self) -> None:
        self.findings.fault(row_too_long(self.bounds), self.record + 1, self.line + 1)
        self.stopped = True


def read_json(file: Path, findings: Findings, bounds: Bounds = DEFAULT) -> Iterator[Row]:
    """Yield every object of a file that is one JSON list, with the object's first line."""
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        line, position = _skip_space(data, skip_mark(file, findings), 1)
        if data[position : position + 1] != b"[":
            _refuse_document(data, position, findings, bounds)
            return
        position += 1
        record = released = 0
        closing = b","
        while closing == b",":
            line, position = _skip_space(data, position, line)
            end, closing = _end_of_element(data, position)
            raw = data[position:end]
            if raw or record or closing == b",":  # not an empty list
                record += 1
                if closing and (value := _element(raw.rstrip(), record, line, position, findings, bounds)) is not None:
                    yield record, line, value
            line, position = line + raw.count(b"\n"), end + 1
            if position - released > bounds.longest and hasattr(data, "madvise"):
                # Mapped pages that were read count as memory of this process until they are released.
                released = position
                data.madvise(mmap.MADV_DONTNEED)
        if not closing:
            findings.fault(_cut(), record or 1, line - raw.count(b"\n"))
        elif rest := data[end + (closing == b"]") : end + BLOCK].strip()[:60]:
            fault = Fault("DATA-E0203", "", f"{as_found(rest.decode('utf-8', 'replace'))} after the list",
                          "one JSON list", "put all rows into one list")  # fmt: skip
            findings.fault(fault, record, line)


def parse(raw: bytes, offset: int, bounds: Bounds = DEFAULT) -> tuple[Any, Reading | None]:
    """Parse one object; if that fails, the second value explains why."""
    try:
        value = exact(raw) if LONG_BYTES.search(raw) else orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return None, explain(raw, error.msg, error.pos, offset, bounds)
    if type(value) is not dict:
        found = f"{as_found(value)} ({kind_of(value)})"
        fault = Fault("DATA-E0208", "", found, "an object such as {…}", "write each row as an object, or remove it")
        return None, Reading(fault)
    if not _is_plain(raw, value, bounds.max_nesting):
        if (depth := deepest(raw)) > bounds.max_nesting:
            return None, Reading(too_deep(depth, bounds))
        if doubled := duplicate_key(raw):
            return None, Reading(doubled)
    return value, None


def _is_plain(raw: bytes, value: dict[str, Any], deepest: int) -> bool:
    """Return whether a text certainly has neither duplicate keys nor deep nesting; False means that it may have.

    orjson silently keeps the last of two equal keys. The value serialised again has each key once, so a duplicate key
    gives one `":` less than in the text; those inside strings count equally in both. False is also returned for texts
    in which this could fail (a blank before the colon, an escaped quote).
    """
    return (
        raw.count(b"[") + raw.count(b"{") <= deepest
        and raw.count(b'":') == as_bytes(value).count(b'":')
        and b" :" not in raw
        and b"\t:" not in raw
        and b"\n:" not in raw
        and b"\r:" not in raw
        and b"\\u0022" not in raw
    )


def finite(value: Any) -> Any:
    """Replace NaN and infinity inside a value by null, which is what JSON has for them."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is dict:
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if type(value) is list else value


def skip_mark(file: Path, findings: Findings) -> int:
    """Return the length of the byte order mark, which some editors write, at the start of a file; 0 without one."""
    with open(file, "rb") as stream:
        if stream.read(len(BOM)) != BOM:
            return 0
    findings.repair(*MARK_REMOVED)
    return len(BOM)


def row_too_long(bounds: Bounds) -> Fault:
    """Return the fault of a row that is too long for a model and for memory."""
    return Fault("DATA-E0109", "", f"a row of more than {bounds.max_row_mib} MiB",
                 f"at most {bounds.max_row_mib} MiB, max_row_mib",
                 "is the file one row per line? Split or remove the row, or raise max_row_mib")  # fmt: skip


def read_blocks(
    file: Path, start: int = 0, stop: int | None = None, size: int = BLOCK, bounds: Bounds = DEFAULT
) -> Iterator[bytes]:
    """Yield complete lines, about `size` bytes at a time; a longer line alone; of a line beyond the bounds, its start.

    `start` and `stop` are offsets of line starts in the file.
    """
    rest = b""
    left = (file.stat().st_size if stop is None else stop) - start
    with open(file, "rb") as stream:
        stream.seek(start)
        while left > 0 and (block := stream.read(min(size, left))):
            left -= len(block)
            end = block.rfind(b"\n") + 1
            if end:
                yield rest + block[:end]
                rest = block[end:]
            else:
                rest += block
                if len(rest) > bounds.longest:
                    yield rest
                    return
    if rest:
        yield rest


def _read_row(
    raw: bytes, record: int, line: int, offset: int, findings: Findings, bounds: Bounds
) -> tuple[dict[str, Any] | None, Fault | None]:
    """Read one object and report its faults; the second value is the fault of a text that ends in the middle."""
    value, reading = parse(raw, offset, bounds)
    if reading is None:
        return value, None
    if reading.fault is None:
        findings.warn(*NOT_FINITE, record)
        return {name: inner if type(inner) is float else finite(inner) for name, inner in reading.value.items()}, None
    if reading.unfinished:
        return None, reading.fault
    findings.fault(reading.fault, record, line)
    return None, None


def _element(
    raw: bytes, record: int, line: int, offset: int, findings: Findings, bounds: Bounds
) -> dict[str, Any] | None:
    """Read one element of the list, or report its fault."""
    if not raw:
        findings.fault(Fault("DATA-E0204", "", "a comma without a value", "an object after each comma",
                             "remove the comma"), record, line)  # fmt: skip
        return None
    if len(raw) > bounds.longest:
        findings.fault(row_too_long(bounds), record, line)
        return None
    value, stops = _read_row(raw, record, line, offset, findings, bounds)
    if stops:
        findings.fault(stops, record, line)
    return value


def _skip_space(data: mmap.mmap, position: int, line: int) -> tuple[int, int]:
    while (character := data[position : position + 1]) and character in SPACE:
        line += character == b"\n"
        position += 1
    return line, position


def _end_of_element(data: mmap.mmap, position: int) -> tuple[int, bytes]:
    """Find the end of an element of the list, and its delimiter: a comma, the closing bracket, or none."""
    depth = 0
    while True:
        position = (INSIDE if depth else OUTSIDE).match(data, position).end()  # type: ignore[union-attr]
        character = data[position : position + 1]
        if character in (b"", b'"'):  # a quote here is not closed
            return len(data), b""
        if character in (b"{", b"["):
            depth += 1
        elif depth == 0:
            return position, character
        elif character in (b"}", b"]"):
            depth -= 1
        position += 1


def _refuse_document(data: mmap.mmap, position: int, findings: Findings, bounds: Bounds) -> None:
    """Report a document that is not a list, and name the lists inside."""
    value: Any = {}
    if len(data) <= bounds.longest:
        value, reading = parse(data[position:], position, bounds)
        if reading and reading.fault:
            findings.fault(_cut() if reading.unfinished else reading.fault)
            return
        value = value if reading is None else reading.value
    keys = ", ".join(f"{key} ({len(v)} items)" if type(v) is list else str(key) for key, v in value.items())
    lists = [key for key, inner in value.items() if type(inner) is list]
    fix = f"set json_field={lists[0]}, if its list holds the rows" if lists else "put the rows into one list [ … ]"
    found = f"an object with the keys {keys[:200]}" if keys else "one object"
    findings.fault(Fault("DATA-E0212", "", found, "a list of rows [ {…}, {…} ]", fix))


def _pretty_printed() -> Fault:
    return Fault("DATA-E0207", "", "an object spread over several lines", "one JSON object on each line",
                 "name the file .json if it is one JSON list, or write each object on one line")  # fmt: skip


def _cut() -> Fault:
    return Fault("DATA-E0202", "", "the end of the file in the middle of a row", "a complete row",
                 "upload the file again; it is truncated")  # fmt: skip
