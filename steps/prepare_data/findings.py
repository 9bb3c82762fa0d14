"""Findings in one file: problems, which refuse it, warnings and repairs, each with its count.

A problem is reported once for each code and column, with its exact count and its first rows.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from steps.errors import Problem, UserError
from steps.tasks import Fault, visible
from steps.tasks.forms import READ_AS
from steps.tasks.rules.counting import Judgement

ROWS_SHOWN = 5
DRAWN = "DATA-F2401"  # rows were held out from the training rows
TEXT_READ_AS = "DATA-F0131"  # files of plain text
FORMS = (READ_AS, TEXT_READ_AS)
OF_FILES = ("01", "02", "03", "05", "06")  # subjects of codes that are reported of a file, if not of a row
BREAKS = ("0109", "0202", "0203", "0303", "0502", "0507")  # the rows behind such an error are unknown
LONGEST_FOUND = 160  # characters; with the expectation and the fix, a message still fits into a few lines
MOST_PER_CODE = 100  # different columns with the same code; more would hide the first ones


@dataclass(frozen=True)
class Place:
    """A row's position in its file: record 1 is the first row, line 1 the first line (0: a format without lines)."""

    record: int
    line: int = 0

    def moved(self, records: int, lines: int) -> Place:
        """Return the place further down by `records` and `lines`; record 0, the file itself, does not change."""
        if not self.record:
            return self
        return Place(self.record + records, self.line + lines if self.line else 0)

    def in_file(self, name: str, column: str = "") -> str:
        """Format the place as messages show it: `train.jsonl:7 (record 6) messages[1].role`."""
        line = f":{self.line}" if self.line else ""
        record = f" (record {self.record})" if self.record else ""
        return f"{name}{line}{record} {column}".rstrip()


@dataclass
class _Group:
    first: Fault
    place: Place
    count: int = 0
    rows: list[int] = field(default_factory=list)
    last: int = -1


class Findings:
    """Collects the findings in a file; `name` is the file as the user wrote it."""

    def __init__(self, name: str):
        self.name = name
        self.repairs: Counter[tuple[str, str]] = Counter()
        self.bad_rows = 0
        """Number of faults so far; a reader of rows checks whether it grew."""
        self.unused: list[str] = []
        """Columns of a table that are not read."""
        self._problems: dict[tuple[str, str], _Group] = {}
        self._warnings: dict[tuple[str, str], _Group] = {}
        self._per_code: Counter[str] = Counter()

    def fault(self, fault: Fault, record: int = 0, line: int = 0) -> None:
        """Add an error of a row; with record 0, of the file."""
        self.bad_rows += 1
        key = (fault.code, re.sub(r"\[\d+\]", "[]", fault.column))
        group = self._problems.get(key)
        if group is None:
            self._per_code[fault.code] += 1
            if self._per_code[fault.code] > MOST_PER_CODE:
                return
            group = self._problems[key] = _Group(fault, Place(record, line))
        _count(group, record)

    def warn(self, code: str, what: str, record: int = 0) -> None:
        """Add a warning about a row that is used nevertheless."""
        group = self._warnings.get((code, what))
        if group is None:
            group = self._warnings[code, what] = _Group(Fault(code, "", "", "", ""), Place(record))
        _count(group, record)

    def remark(self, code: str, what: str, record: int) -> None:
        """Add a task's remark on a valid row: a warning or a repair."""
        if code.startswith("DATA-F"):
            self.repair(code, what)
        else:
            self.warn(code, what, record)

    def repair(self, code: str, what: str, count: int = 1) -> None:
        """Add a repair without loss."""
        self.repairs[code, what] += count

    def judge(self, judgement: Judgement, line: int = 0) -> None:
        """Add a conclusion from the counts of the whole file; `line` is the line of its first record."""
        fault, rows = judgement.fault, list(judgement.records[:ROWS_SHOWN])
        if fault.code.startswith("DATA-E"):
            self.bad_rows += 1
            place = Place(rows[0], line) if rows else Place(0)
            self._problems[fault.code, fault.column] = _Group(fault, place, judgement.count, rows)
        elif fault.code.startswith("DATA-W"):
            self._warnings[fault.code, fault.found] = _Group(fault, Place(0), judgement.count, rows)
        else:
            self.repair(fault.code, fault.found, judgement.count)

    def extend(self, later: Findings, records: int, lines: int) -> None:
        """Append the findings in a later part of the file; `records` and `lines` come before it."""
        self.repairs += later.repairs
        self.bad_rows += later.bad_rows
        for groups, others in ((self._problems, later._problems), (self._warnings, later._warnings)):
            for key, other in others.items():
                group = groups.get(key)
                if group is None:
                    if groups is self._problems:
                        self._per_code[key[0]] += 1
                        if self._per_code[key[0]] > MOST_PER_CODE:
                            continue
                    group = groups[key] = _Group(other.first, other.place.moved(records, lines))
                group.count += other.count
                group.rows += [row + records for row in other.rows][: ROWS_SHOWN - len(group.rows)]

    @property
    def ends_early(self) -> bool:
        """Return whether an error kept some rows from being counted: one of the whole file, or a break in it."""
        return any(
            code[6:] in BREAKS or (not group.place.record and code[6:8] in OF_FILES)
            for (code, _), group in self._problems.items()
        )

    @property
    def problems(self) -> list[Problem]:
        """Every problem as defined in steps.errors, in the order of the file."""
        groups = sorted(self._problems.values(), key=lambda group: group.place.record)
        return [
            Problem(
                group.first.code,
                group.place.in_file(self.name, visible(group.first.column)),
                _short(visible(group.first.found)),
                visible(group.first.expected),
                visible(group.first.fix),
                tuple(group.rows) if group.count > 1 else (),
                group.count,
            )
            for group in groups
        ]

    @property
    def warnings(self) -> list[dict[str, Any]]:
        """Every warning: code, file, what, count, rows."""
        return [
            {"code": code, "file": self.name, "what": visible(what), "count": group.count, "rows": group.rows}
            for (code, what), group in self._warnings.items()
        ]

    @property
    def repaired(self) -> list[dict[str, Any]]:
        """Every repair: code, file, what, count."""
        return [
            {"code": code, "file": self.name, "what": visible(what), "count": count}
            for (code, what), count in self.repairs.items()
        ]


def as_lines(warnings: list[dict[str, Any]], repairs: list[dict[str, Any]]) -> list[str]:
    """Return repairs and warnings as a person reads them, one line each: first the forms in which rows were read."""
    lines = [
        f"{'split' if repair['code'] == DRAWN else 'repaired'} {repair['what']} ({repair['count']:,})"
        for repair in repairs
        if repair["code"] not in FORMS
    ]
    told = [f"WARNING {warning['code']} {warning['what']} ({warning['count']:,})" for warning in warnings]
    return [*forms_told(repairs), *lines, *told]


def forms_told(repairs: list[dict[str, Any]]) -> list[str]:
    """Return in which forms rows were read, one line each."""
    return [f"{repair['what']}: {repair['count']:,}" for repair in repairs if repair["code"] in FORMS]


def most_frequent(warnings: list[dict[str, Any]], most: int) -> list[str]:
    """Return the warnings with the largest counts over all splits as lines, and how many others there are."""
    counts: Counter[tuple[str, str]] = Counter()
    for warning in warnings:
        counts[warning["code"], warning["what"]] += warning["count"]  # a split has its own entry
    shown = [{"code": code, "what": what, "count": count} for (code, what), count in counts.most_common(most)]
    more = len(counts) - len(shown)
    return as_lines(shown, []) + ([f"{more} more warnings are in the report of the data"] if more else [])


def with_notes(error: UserError, warnings: list[dict[str, Any]], repairs: list[dict[str, Any]]) -> UserError:
    """Add what else is known of refused data to the error, as Python's notes."""
    for line in as_lines(warnings, [repair for repair in repairs if repair["code"] != DRAWN]):
        error.add_note(line)
    return error


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_FOUND else text[: LONGEST_FOUND - 1] + "…"


def _count(group: _Group, record: int) -> None:
    if record and record == group.last:  # several faults of one row, such as two empty messages, count once
        return
    group.last = record
    group.count += 1
    if record and len(group.rows) < ROWS_SHOWN:
        group.rows.append(record)
