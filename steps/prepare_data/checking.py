"""Every row of every file checked, without a model: what `finetune check-data` runs, and prepare_data first of all."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa

from steps.errors import Problem, UserError
from steps.params.data import DataSource
from steps.params.group import Group
from steps.prepare_data.findings import ROWS_SHOWN, Findings, Place
from steps.prepare_data.reading import read_rows
from steps.prepare_data.sources import SourceFile, open_source
from steps.prepare_data.splitting import SPLITS, split_rows
from steps.tasks import Fault, load_task, named_by
from steps.tasks.counting import Tally

ROWS_AT_ONCE = 2048
MOST_LEAKED = 0.01  # share of held-out rows that also stand in train; above it the comparison means nothing


@dataclass
class Rows:
    """The good rows of a file, or of a split of it."""

    source: str
    """The file as the user named it."""
    table: pa.Table | None
    """Canonical rows of the task, in the order of the file; None when they were not kept."""
    records: np.ndarray
    """Record number of each row in the file, int64."""
    lines: np.ndarray
    """Line where each row starts, int64; 0 in formats without lines."""
    keys: np.ndarray
    """A hash of each row's content, int64; equal rows have equal ones."""
    tally: Tally
    """What the task counts over the whole file."""

    def __len__(self) -> int:
        return len(self.records)

    def take(self, rows: np.ndarray) -> Rows:
        """Some of the rows; their numbers rise."""
        table = None if self.table is None else _take(self.table, rows)
        return Rows(self.source, table, self.records[rows], self.lines[rows], self.keys[rows], self.tally)

    def where(self, row: int, column: str = "") -> str:
        """Name a row the way every message does."""
        return Place(int(self.records[row]), int(self.lines[row])).in_file(self.source, column)


@dataclass
class DataCheck:
    """What a check of good data says."""

    counts: dict[str, int]
    """Rows of train, validation and test after the split."""
    rows: dict[str, Rows]
    """The rows themselves, by split."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """{code, what, count, rows} of everything worth knowing that does not stop the run."""
    repairs: list[dict[str, Any]] = field(default_factory=list)
    """{code, what, count} of everything that was mended without loss."""


def check_data(
    task: str,
    train: str | Path,
    validation: str | Path = "",
    test: str | Path = "",
    columns: Group | None = None,
    min_train_rows: int = 10,
    split: Literal["shuffled", "positional"] = "shuffled",
    seed: int = 42,
    keep_rows: bool = True,
) -> DataCheck:
    """Check every row of up to three files (paths or URIs) and split them; needs no model.

    With `keep_rows=False` the memory needed does not grow with the rows but for 24 bytes each.
    Raises UserError with every problem of every file, and as `steps.storage.fetch`.
    """
    module = load_task(task)
    columns = columns or module.Columns()
    sources = {"train": str(train), "validation": str(validation), "test": str(test)}
    files: dict[str, Rows] = {}
    all_findings: dict[str, Findings] = {}
    absent: dict[str, list[Problem]] = {}
    for name, uri in sources.items():
        if not uri:
            continue
        findings = all_findings[name] = Findings(uri)
        try:
            with TemporaryDirectory() as scratch:
                files[name] = check_file(
                    _bring(name, uri, Path(scratch), findings), module, columns, findings, keep_rows
                )
        except UserError as error:  # a file that is not there: the others are looked at all the same
            absent[name] = error.problems
    if hasattr(module, "judge"):
        for judgement in module.judge({name: rows.tally for name, rows in files.items()}, columns):
            all_findings[judgement.split].judge(judgement)
    problems = [problem for name in all_findings for problem in absent.get(name, []) + all_findings[name].problems]
    if problems:
        raise UserError(problems)
    warnings = [warning for findings in all_findings.values() for warning in findings.warnings]
    warnings += _repeated(files) + _leaked(files, most=MOST_LEAKED)
    rows = _split(files, split, seed, min_train_rows)
    # Equal rows of one file may fall on both sides of the split: repeated rows are worth a warning, no refusal.
    warnings += _leaked({name: part for name, part in rows.items() if name == "train" or name not in files}, most=1)
    repairs = [repair for findings in all_findings.values() for repair in findings.repaired]
    return DataCheck({name: len(part) for name, part in rows.items()}, rows, warnings, repairs)


def check_file(file: Path | SourceFile, task: ModuleType, columns: Group, findings: Findings, keep_rows: bool) -> Rows:
    """Read one file to its end; what is wrong goes to `findings`, good rows are returned."""
    names = task.columns_of(columns)
    records, lines, keys = array("q"), array("q"), array("q")
    batches: list[pa.RecordBatch] = []
    waiting: list[dict[str, Any]] = []
    extra: Counter[str] = Counter()
    counted, tally = getattr(task, "counted", None), Tally()
    seen = False
    for record, line, row in read_rows(file, named_by(columns, names), findings):
        seen = True
        if len(row) > len(names):
            extra.update(key for key in row if key not in names)
        good = True
        for fault in task.check_row(row, columns):
            findings.fault(fault, record, line)
            good = False
        if not good:
            continue
        for code, what in task.remarks(row, columns):
            findings.remark(code, what, record)
        canonical = task.canonical(row, columns)
        if counted:
            tally.add(counted(canonical, columns), record)
        records.append(record)
        lines.append(line)
        keys.append(hash(orjson.dumps(canonical)))
        if keep_rows:
            waiting.append(canonical)
            if len(waiting) == ROWS_AT_ONCE:
                batches.append(pa.RecordBatch.from_pylist(waiting, task.SCHEMA))
                waiting = []
    if waiting:
        batches.append(pa.RecordBatch.from_pylist(waiting, task.SCHEMA))
    if extra:
        findings.repair("DATA-F0601", f"columns not used: {', '.join(extra)}")
    if not seen and not findings.bad_rows:
        findings.fault(Fault("DATA-E0108", "", "0 rows", "rows", "fill the file, or leave the parameter empty"))
    table = pa.Table.from_batches(batches, task.SCHEMA) if keep_rows else None
    numbers = [np.frombuffer(a, np.int64) for a in (records, lines, keys)]
    return Rows(findings.name, table, numbers[0], numbers[1], numbers[2], tally)


def _bring(name: str, uri: str, scratch: Path, findings: Findings) -> SourceFile:
    given = DataSource(**{f"{name}_file_path": uri})
    files = open_source(name, given, scratch, lambda code, what: findings.remark(code, what, 0))
    if len(files) != 1:
        raise UserError(
            Problem("DATA-E0110", f"{name}_file_path", f"{len(files)} files at {uri!r}", "one file", "join the files")
        )
    return files[0]


def _split(files: dict[str, Rows], how: Literal["shuffled", "positional"], seed: int, least: int) -> dict[str, Rows]:
    """Make the missing splits from the training rows. Raises UserError when too few are left."""
    train = files["train"]
    parts = split_rows(len(train), set(files) - {"train"}, how, seed)
    rows = {name: train.take(parts[name]) if name in parts else files[name] for name in SPLITS}
    if len(rows["train"]) >= least and all(len(part) for part in rows.values()):
        return rows
    held_out = " and ".join(name for name in SPLITS[1:] if name in parts)
    after = f" of {len(train)} after {held_out} took their share" if held_out else ""
    raise UserError(
        Problem("DATA-E0701", train.source, f"{len(rows['train'])} training rows{after}",
                f"at least {max(least, 1)}, and one row for every split", "add rows, or lower min_train_rows")
    )  # fmt: skip


def _take(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Take rows batch by batch: Arrow would first join all batches, which fails above 2 GiB of text."""
    batches, start = [], 0
    for batch in table.to_batches():
        first, last = np.searchsorted(rows, (start, start + len(batch)))
        batches.append(batch.take(pa.array(rows[first:last] - start)))
        start += len(batch)
    return pa.Table.from_batches(batches, table.schema)


def _repeated(files: dict[str, Rows]) -> list[dict[str, Any]]:
    """Warn of rows that stand in the training file more than once."""
    train = files["train"]
    _, first = np.unique(train.keys, return_index=True)
    repeated = np.setdiff1d(np.arange(len(train)), first)
    if not len(repeated):
        return []
    share = 100 * len(repeated) / len(train)
    what = f"{train.source}: rows that stand further up already ({share:.1f} %)"
    return [_warning("DATA-W0701", what, train.records[repeated])]


def _leaked(files: dict[str, Rows], most: float) -> list[dict[str, Any]]:
    """Warn of held-out rows that are also trained on. Raises UserError above the share `most`."""
    train = files["train"]
    warnings, problems = [], []
    for name in SPLITS[1:]:
        held_out = files.get(name)
        if held_out is None or not len(held_out):
            continue
        leaked = np.flatnonzero(np.isin(held_out.keys, train.keys))
        if not len(leaked):
            continue
        twins = [train.records[np.argmax(train.keys == held_out.keys[row])] for row in leaked[:ROWS_SHOWN]]
        pairs = ", ".join(f"{held_out.records[row]} = {twin}" for row, twin in zip(leaked, twins, strict=False))
        what = f"rows of {name} that are also training rows (record {pairs} of {train.source})"
        if len(leaked) > most * len(held_out):
            problems.append(
                Problem("DATA-E0703", held_out.where(leaked[0]), f"{len(leaked)} of {len(held_out)} {what}",
                        f"at most {most:.0%} of them", "remove them from one of the two files",
                        tuple(int(held_out.records[row]) for row in leaked[:ROWS_SHOWN]), len(leaked))
            )  # fmt: skip
        else:
            warnings.append(_warning("DATA-W0702", f"{held_out.source}: {what}", held_out.records[leaked]))
    if problems:
        raise UserError(problems)
    return warnings


def _warning(code: str, what: str, records: np.ndarray) -> dict[str, Any]:
    return {"code": code, "what": what, "count": len(records), "rows": [int(r) for r in records[:ROWS_SHOWN]]}
