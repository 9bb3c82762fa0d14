"""Check one part of a file row by row; collect its findings and its valid rows.

A large jsonl file is divided into parts that several processes check in parallel; any other file is one part. Of a
valid row two hashes are kept in memory, and its canonical form, if needed, in an Arrow file on disk, so memory does not
grow with the size of the rows.
"""

from __future__ import annotations

import gc
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from steps.lost import killed, was_killed
from steps.params.group import Group
from steps.prepare_data.check import secret_scan
from steps.prepare_data.check.places import Places
from steps.prepare_data.check.secret_scan import lines_with_secrets
from steps.prepare_data.check.tables import MOST_IMAGES, ROWS_AT_ONCE, TableWriter
from steps.prepare_data.findings import Findings
from steps.prepare_data.read.json_rows import JsonLines, Row, read_blocks, skip_mark
from steps.prepare_data.read.sources import SourceFile
from steps.stopping import refuse_after_stop
from steps.tasks import NO_OTHERS, Fault, kind_of, load_task
from steps.tasks.forms import ReadRow, row_reader
from steps.tasks.rules.characters import DAMAGE, damage_in, may_be_damaged
from steps.tasks.rules.counting import Tally
from steps.tasks.rules.json_text import as_bytes
from steps.tasks.rules.likeness import fingerprint, outline
from steps.tasks.rules.messages import forbidden_characters
from steps.tasks.rules.plain import PlainReader, PlainRows, plain_reader

STRETCH = 4 * 1024 * 1024
BLOCK = 256 * 1024  # the decoded rows of a block fit into the CPU cache
MOST_WORKERS = 8
QUOTE, BACKSLASH, NEWLINE, OPEN, CLOSE = b'"\\\n{}'


@dataclass
class Part:
    """Findings and valid rows of one part; records and lines are counted from its start."""

    findings: Findings
    places: Places = field(default_factory=Places)
    fingerprints: array[int] = field(default_factory=lambda: array("q"))
    outlines: array[int] = field(default_factory=lambda: array("q"))
    strata: array[int] = field(default_factory=lambda: array("q"))
    """Hash of each row's value in the column by which a split is stratified; empty for tasks without one."""
    asked: array[int] = field(default_factory=lambda: array("q"))
    """Hash of each row's columns `ASKED`; empty for tasks without them."""
    groups: array[int] = field(default_factory=lambda: array("q"))
    """Hash of each row's value in the column `TOGETHER`; empty for tasks without one."""
    tally: Tally = field(default_factory=Tally)
    unused: Counter[str] = field(default_factory=Counter)
    """Columns that the task does not read."""
    kinds: dict[str, set[str]] = field(default_factory=dict)
    """Column → the kinds of its values (`kind_of`), if the format has types; not of rows that need no full check."""
    records: int = 0
    lines: int = 0
    stopped: bool = False
    """Reading stopped: nothing after the last record can be parsed."""
    tables: list[Path] = field(default_factory=list)
    """Arrow files with the canonical rows, if they are kept."""

    def extend(self, later: Part) -> None:
        """Append the part that follows."""
        self.findings.extend(later.findings, self.records, self.lines)
        self.places.extend(later.places, self.records, self.lines)
        self.tally.extend(later.tally, self.records)
        self.fingerprints += later.fingerprints
        self.outlines += later.outlines
        self.strata += later.strata
        self.groups += later.groups
        self.asked += later.asked
        self.unused += later.unused
        for name, kinds in later.kinds.items():
            self.kinds.setdefault(name, set()).update(kinds)
        self.records += later.records
        self.lines += later.lines
        self.stopped = later.stopped
        self.tables += later.tables


class Checker:
    """Checks rows of one task and collects the findings in a Part."""

    def __init__(
        self,
        name: str,
        task: str,
        columns: Group,
        table: Path | None,
        typed: bool = True,
        folder: Path | None = None,
    ):
        self.part = Part(Findings(name))
        self.part.places.names.append(name)
        self.task, self.columns = load_task(task), columns
        others = self.task.other_columns(columns) if hasattr(self.task, "other_columns") else NO_OTHERS
        self.known = others.known(self.task.columns_of(columns))
        self.typed = typed
        """Whether the format has lists, objects and numbers; a csv cell is always text."""
        self.cells = self.task.cells(columns) if typed and hasattr(self.task, "cells") else {}
        self.strict = getattr(columns, "strict", False)
        self.counted = getattr(self.task, "counted", None)
        self.with_images = getattr(self.task, "with_images", None)
        self.folder = folder
        """What paths in rows start from."""
        self.stratify = getattr(self.task, "STRATIFY", "")
        self.reader = row_reader(task, columns)
        together = getattr(self.task, "TOGETHER", ())
        self.together = (together,) if isinstance(together, str) else together
        self.asked = getattr(self.task, "ASKED", ())
        self._writer = TableWriter(table, self.task.SCHEMA) if table else None

    def check(self, rows: Iterable[Row], damaged: bool = False) -> None:
        """Check rows one by one; with `damaged`, some may contain one of the characters in DAMAGE."""
        part, task, columns, findings = self.part, self.task, self.columns, self.part.findings
        known = self.known
        for record, line, row in rows:
            given, read = row, self.reader.read(row) if self.reader else None
            if read:
                part.unused.update(read.unused)
                row = read.row
            elif known is not None and not row.keys() <= known:
                part.unused.update(key for key in row if key not in known)
            unusable: list[Fault] = []
            if self.with_images:
                row, unusable = self.with_images(row, columns, self.folder)
            if self._refuses(row, read, record, line, unusable) or (
                damaged and self.strict and self._refuses_nul(row, read, record, line)
            ):
                continue
            if self.typed:
                self._note_kinds(given)
            for code, what in chain(read.notes if read else (), task.remarks(row, columns)):
                findings.remark(code, what, record)
            for name, from_cell in self.cells.items():
                if type(value := given.get(name)) is str and type(from_cell(value)) in (list, dict):
                    findings.repair("DATA-F0621", f"JSON text in the column {name} read as a list or an object")
            canonical = task.canonical(row, columns)
            if damaged:
                for character in damage_in({**self._used(row), "": canonical}):
                    findings.warn(*DAMAGE[character], record)
            if self.counted:
                part.tally.add(self.counted(canonical, columns), record)
            part.places.add(record, line)
            part.fingerprints.append(fingerprint(canonical))
            part.outlines.append(outline(canonical))
            if self.stratify:
                # not hash(), which differs between processes: equal data must be split in the same way
                part.strata.append(crc32("\0".join(canonical[self.stratify]).encode()))
            if self.asked:
                part.asked.append(fingerprint({name: canonical[name] for name in self.asked}))
            if self.together:
                there = {name: canonical[name] for name in self.together if canonical.get(name) is not None}
                part.groups.append(fingerprint(there))
            if self._writer:
                self._writer.add(canonical)

    def _refuses(
        self, row: dict[str, Any], read: ReadRow | None, record: int, line: int, unusable: list[Fault]
    ) -> bool:
        """Report the errors of a row, under the names of the user's columns; return whether there are any."""
        if read and read.fault:
            self.part.findings.fault(read.fault, record, line)
            return True
        faults = unusable or list(self.task.check_row(row, self.columns))
        if faults and self.reader:
            faults = [read.told(fault) for fault in faults] if read else self.reader.hints(faults, row)
        for fault in faults:
            self.part.findings.fault(fault, record, line)
        return bool(faults)

    def _used(self, row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if self.known is None or name in self.known}

    def _note_kinds(self, row: dict[str, Any]) -> None:
        kinds = self.part.kinds
        for name, value in row.items():
            if value is not None and (self.known is None or name in self.known):
                kinds.setdefault(name, set()).add(kind_of(value))

    def _refuses_nul(self, row: dict[str, Any], read: ReadRow | None, record: int, line: int) -> bool:
        """Report U+0000 in the columns that are read; return whether the row is refused."""
        faults = [fault for name, value in self._used(row).items() for fault in forbidden_characters(value, name)]
        for fault in faults:
            self.part.findings.fault(read.told(fault) if read else fault, record, line)
        return bool(faults)

    def look_for_secrets(self, block: bytes, records: Sequence[int]) -> None:
        """Warn of strings that look like keys in a block with one row per line; `records` are the lines' records."""
        for position in lines_with_secrets(block):
            self.part.findings.warn(secret_scan.CODE, secret_scan.WHAT, records[position])

    def take(self, rows: PlainRows, record: int, line: int) -> None:
        """Add a block of rows that are known to be valid."""
        self.part.places.add(record, line, len(rows.fingerprints))
        self.part.fingerprints.extend(rows.fingerprints)
        self.part.outlines.extend(rows.outlines)
        if self._writer:
            self._writer.add_batch(rows.canonical())

    def finish(self) -> Part:
        """End the part."""
        if self._writer:
            self.part.tables.append(self._writer.close())
        return self.part


def check_jsonl(file: SourceFile, task: str, columns: Group, table: Path | None) -> Part:
    """Check the parts of a jsonl file in parallel; canonical rows go to files whose names start with `table`."""
    findings = Findings(file.name)
    start = skip_mark(file.path, findings)
    edges = [start, *_line_starts(file.path, start + STRETCH), file.path.stat().st_size]
    work = partial(_check_stretch, file, task, columns, table)
    stretches = list(pairwise(edges))
    whole: Part | None = None
    for part in _side_by_side(work, stretches):
        if whole is None:
            whole = part
        else:
            whole.extend(part)
        if whole.stopped:
            break
    assert whole
    whole.findings.repairs += findings.repairs
    return whole


def check_rows(
    name: str,
    rows: Callable[[Findings], Iterator[Row]],
    task: str,
    columns: Group,
    table: Path | None,
    typed: bool = True,
    folder: Path | None = None,
) -> Part:
    """Check rows of any other format, read by `rows`; `typed` if the format has lists, objects and numbers.

    `folder` is what paths in the rows start from.
    """
    checker = Checker(name, task, columns, table, typed, folder)
    for some in _groups(rows(checker.part.findings), checker.with_images is not None):
        block = b"\n".join(as_bytes(row, _without_bytes) for _, _, row in some)
        checker.check(some, may_be_damaged(block))
        checker.part.records = some[-1][0]
        checker.look_for_secrets(block, [record for record, _, _ in some])
    return checker.finish()


def _groups(rows: Iterator[Row], weighed: bool) -> Iterator[list[Row]]:
    """Group rows; if they are `weighed`, fewer of those with large images."""
    group: list[Row] = []
    size = 0
    for one in rows:
        group.append(one)
        size += _image_size(one[2]) if weighed else 0
        if len(group) == ROWS_AT_ONCE or size > MOST_IMAGES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _without_bytes(value: Any) -> str:
    return "" if type(value) is bytes else str(value)


def _image_size(value: Any) -> int:
    """Return how many bytes (not texts) a row has in its lists and objects."""
    if type(value) is bytes:
        return len(value)
    if type(value) is list or type(value) is dict:
        return sum(map(_image_size, value.values() if type(value) is dict else value))
    return 0


def _side_by_side(work: Callable[[tuple[int, int]], Part], stretches: list[tuple[int, int]]) -> Iterator[Part]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    workers = min(len(stretches), cores, MOST_WORKERS)
    if workers < 2:
        yield from map(work, stretches)
        return
    processes: list[Any] = []
    try:
        # Forked processes give equal hashes of equal texts and need not import modules again.
        with ProcessPoolExecutor(workers, get_context("fork"), initializer=gc.disable) as pool:
            try:
                made = pool.map(work, stretches)
            finally:  # also if one has ended before all stretches are given to them
                processes += pool._processes.values()  # active_children() forgets one that has ended already
            yield from made
    except BrokenProcessPool:  # behind the pool, which has waited for all of them, so that their codes are known
        codes = [one.exitcode for one in processes if one.exitcode and was_killed(one.exitcode)]
        refuse_after_stop()  # who stops all processes of a group stops these too
        if not codes:
            raise
        raise killed("a process that checks rows", codes[0], "request more memory for prepare_data") from None


def _check_stretch(source: SourceFile, task: str, columns: Group, table: Path | None, edges: tuple[int, int]) -> Part:
    name, file, bounds = source.name, source.path, source.bounds
    start, stop = edges
    own = table.with_name(f"{table.name}-{start}") if table else None
    checker = Checker(name, task, columns, own, folder=source.folder)
    plain = plain_reader(task, columns)
    whole = start <= 3  # a byte order mark may come before the first line
    lines = JsonLines(checker.part.findings, start, whole, bounds)
    collecting = gc.isenabled()
    gc.disable()  # rows have no reference cycles; garbage collection would take a third of the time
    try:
        for block in read_blocks(file, start, stop, BLOCK, bounds):
            checker.look_for_secrets(block, _Records(block, lines.record + 1))
            rows = _plain_rows(block, plain) if plain else None
            if rows:
                count = len(rows.fingerprints)
                lines.skip(count, len(block))
                checker.take(rows, lines.record - count + 1, lines.line - count + 1)
            else:
                checker.check(lines.rows(block), may_be_damaged(block))
                if lines.stopped:
                    break
    finally:
        if collecting:
            gc.enable()
    lines.close(last=stop >= file.stat().st_size)
    part = checker.finish()
    part.records, part.lines, part.stopped = lines.record, lines.line, lines.stopped
    return part


class _Records(Sequence[int]):
    """Record numbers of the lines of a block; blank lines are not records."""

    def __init__(self, block: bytes, first: int):
        self.block, self.first = block, first

    def __len__(self) -> int:
        return self.block.count(b"\n")

    def __getitem__(self, line: Any) -> Any:
        return self.first + sum(not raw.isspace() for raw in self.block.split(b"\n", line)[:line] if raw)


def _plain_rows(block: bytes, plain: PlainReader) -> PlainRows | None:
    """Read a block in which every line is a plain valid row; None if that is not certain.

    The decoder is less strict than the full check: it takes the last of two equal keys, accepts U+0000 and reads
    across line ends. So the text must not have more strings than the rows, and each line must start and end with a
    brace.
    """
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == NEWLINE)
    if not len(ends) or ends[-1] != len(text) - 1 or text[0] != OPEN:
        return None
    if not (text[ends - 1] == CLOSE).all() or not (text[ends[:-1] + 1] == OPEN).all():
        return None
    escaped, behind = text[:-1] == BACKSLASH, text[1:]
    if may_be_damaged(block):
        return None
    try:
        rows = plain.decoder.decode_lines(block)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    found = plain.read(rows) if len(rows) == len(ends) else None
    quotes = np.count_nonzero(text == QUOTE) - np.count_nonzero(escaped & (behind == QUOTE))
    return found if found and quotes == 2 * found.strings else None


def _line_starts(file: Path, position: int) -> Iterator[int]:
    """Yield a line start about every STRETCH bytes after `position`."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        while position < size:
            stream.seek(position)
            while (piece := stream.read(1024 * 1024)) and b"\n" not in piece:
                position += len(piece)
            position += piece.find(b"\n") + 1
            if not piece or position >= size:
                return
            yield position
            position += STRETCH
