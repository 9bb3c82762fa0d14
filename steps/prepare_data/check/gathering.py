"""Combine the files of one split: rows are numbered across files, findings are reported by file."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from steps.errors import Problem
from steps.prepare_data.check.parts import Part
from steps.prepare_data.check.places import Places
from steps.prepare_data.check.rows import Rows, StoredRows
from steps.prepare_data.read.sources import SourceFile
from steps.tasks import load_task
from steps.tasks.forms import READ_AS
from steps.tasks.rules.counting import Judgement, Tally


class Gathered:
    """The findings and valid rows of all files of a split, in order."""

    def __init__(self) -> None:
        self.files: list[SourceFile] = []
        self.places = Places()
        self.fingerprints, self.outlines, self.strata = array("q"), array("q"), array("q")
        self.groups, self.asked = array("q"), array("q")
        self.kept_whole = "equal rows"
        """What is held out together, as messages say it: for tasks with TOGETHER_AS, its value."""
        self.tally = Tally()
        """Its record numbers continue from file to file."""
        self._parts: list[Part] = []
        self._starts: list[int] = []  # records before each file

    def add(self, file: SourceFile, part: Part) -> None:
        """Add the next file."""
        start = self._starts[-1] + self._parts[-1].records if self._parts else 0
        self.files.append(file)
        self._starts.append(start)
        self._parts.append(part)
        self.places.join(part.places)
        self.tally.extend(part.tally, start)
        for name in ("fingerprints", "outlines", "strata", "groups", "asked"):
            own, other = getattr(self, name), getattr(part, name)
            setattr(self, name, own + other if own else other)
            setattr(part, name, array("q"))  # kept once

    def compare_kinds(self) -> None:
        """Warn of columns with several kinds of values, such as numbers and texts, in one file or in several."""
        first: dict[str, tuple[set[str], str]] = {}
        for file, part in zip(self.files, self._parts, strict=True):
            for name, kinds in part.kinds.items():
                known, where = first.setdefault(name, (kinds, file.name))
                if len(kinds | known) > 1:
                    there = f", in {where} {_and(known)}" if where != file.name else ""
                    part.findings.warn("DATA-W2404", f"the column {name} holds {_and(kinds)}{there}")

    def rows(self, task: str) -> Rows:
        """Return the valid rows."""
        tables = [table for part in self._parts for table in part.tables]
        stored = StoredRows(tables, load_task(task).SCHEMA) if tables else None
        return Rows(self.places, np.frombuffer(self.fingerprints, np.int64), stored)

    def warn_of_mixed_forms(self) -> None:
        """Warn of rows in several forms (`steps.tasks.forms`), with the number of each."""
        forms: Counter[str] = Counter()
        for part in self._parts:
            for (code, what), count in part.findings.repairs.items():
                if code == READ_AS:
                    forms[what.removeprefix("read as ")] += count
        if declared := len(self.places) - forms.total():
            forms["rows with the declared columns"] = declared
        if len(forms) > 1:
            told = " and ".join(f"{count:,} {name}" for name, count in forms.most_common())
            self._parts[0].findings.warn("DATA-W0619", f"rows in several forms: {told}")

    def judge(self, judgement: Judgement) -> None:
        """Add a judgement to the findings of the file that holds its first row."""
        if not judgement.records:
            if any(part.findings.bad_rows for part in self._parts):
                return  # it concerns all rows, but some could not be read
            self._parts[0].findings.judge(judgement)
            return
        number = bisect_right(self._starts, judgement.records[0] - 1) - 1
        part, start = self._parts[number], self._starts[number]
        own = tuple(record - start for record in judgement.records if start < record <= start + part.records)
        part.findings.judge(replace(judgement, records=own), part.places.line_of(own[0]))

    def problems(self) -> list[Problem]:
        """Return every problem of every file."""
        return [problem for part in self._parts for problem in part.findings.problems]

    @property
    def refused(self) -> int:
        """Number of rows that were refused; 0 if none was, although a function of the user dropped some."""
        faulty = [part for part in self._parts if part.findings.bad_rows]
        return sum(max(0, part.records - len(part.places)) for part in faulty)

    @property
    def read_to_its_end(self) -> bool:
        """Return whether every row of every file could be counted."""
        return not any(part.stopped or part.findings.ends_early for part in self._parts)

    def warnings(self) -> list[dict[str, Any]]:
        """Return every warning, once for all files that have it."""
        return _together([warning for part in self._parts for warning in part.findings.warnings])

    def repairs(self) -> list[dict[str, Any]]:
        """Return every repair, once for all files that have it."""
        return _together([repair for part in self._parts for repair in part.findings.repaired])


def _and(kinds: set[str]) -> str:
    return " and ".join(sorted(kinds))


def _together(notes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge notes that differ only in their file; keep the rows of the first file."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    more: dict[tuple[str, str], int] = {}
    for note in notes:
        key = (note["code"], note["what"])
        if key in first:
            first[key]["count"] += note["count"]
            more[key] += 1
        else:
            first[key], more[key] = dict(note), 0
    told = []
    for key, note in first.items():
        others = f" and {more[key]} more files" if more[key] > 1 else " and one more file"
        note["what"] = f"{note.pop('file')}{others if more[key] else ''}: {note['what']}"
        told.append(note)
    return told
