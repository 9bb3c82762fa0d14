"""Every row of every file checked, without a model: what `finetune check-data` runs, and prepare_data first of all."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from steps.errors import Problem, UserError
from steps.params.data import DataSource
from steps.params.group import Group
from steps.prepare_data.findings import Findings
from steps.prepare_data.parts import Part, check_jsonl, check_rows
from steps.prepare_data.reading import detect, read_rows
from steps.prepare_data.repeats import leaked, nearly_equal, repeated
from steps.prepare_data.rows import Rows, StoredRows
from steps.prepare_data.sources import SourceFile, open_source
from steps.prepare_data.splitting import SPLITS, split_rows
from steps.tasks import NO_OTHERS, Fault, load_task, named_by

MOST_LEAKED = 0.01  # share of held-out rows that also stand in train; above it the comparison means nothing


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
    scratch: Path | None = None,
) -> DataCheck:
    """Check every row of up to three files (paths or URIs) and split them; needs no model.

    With `scratch`, a folder, the canonical rows are kept there; the memory needed grows by 16 bytes a row.
    Raises UserError with every problem of every file, and as `steps.storage.fetch`.
    """
    columns = columns or load_task(task).Columns()
    sources = {name: uri for name, uri in zip(SPLITS, map(str, (train, validation, test)), strict=True) if uri}
    with TemporaryDirectory() as downloads:
        local, problems, notes = _bring_all(sources, Path(downloads) / "files")

        def check(name: str, folder: Path | None) -> Part:
            part = _check_file(local[name], task, columns, folder / name if folder else None)
            for code, what in notes[name]:
                part.findings.remark(code, what, 0)
            return part

        parts = {name: check(name, scratch) for name in local}
        _judge(task, columns, parts)
        problems += [problem for part in parts.values() for problem in part.findings.problems]
        if problems:
            raise UserError(problems)
        files = {name: as_rows(part, task) for name, part in parts.items()}

        def with_texts() -> dict[str, Rows]:
            if scratch:
                return files
            return {name: as_rows(check(name, Path(downloads)), task) for name in local}

        near = nearly_equal(files, {name: part.outlines for name, part in parts.items()}, with_texts)
    for part in parts.values():
        part.outlines = array("q")  # only looked at once, and as large as all the rest that is kept of a row
    again = repeated(files["train"])
    warnings = [warning for part in parts.values() for warning in part.findings.warnings]
    warnings += again + leaked(files, most=MOST_LEAKED) + near
    rows = _split(files, split, seed, min_train_rows, parts["train"].strata)
    if again:  # equal rows of one file may fall on both sides of the split: worth a warning, no refusal
        warnings += leaked({name: part for name, part in rows.items() if name == "train" or name not in files}, most=1)
    repairs = [repair for part in parts.values() for repair in part.findings.repaired]
    return DataCheck({name: len(part) for name, part in rows.items()}, rows, warnings, repairs)


def _judge(task: str, columns: Group, parts: dict[str, Part]) -> None:
    """Let the task say what its counts over the whole files mean."""
    module = load_task(task)
    if hasattr(module, "judge"):
        for judgement in module.judge({name: part.tally for name, part in parts.items()}, columns):
            parts[judgement.split].findings.judge(judgement)


def as_rows(part: Part, task: str) -> Rows:
    """The rows of a part."""
    stored = StoredRows(part.tables, load_task(task).SCHEMA) if part.tables else None
    return Rows(part.places, np.frombuffer(part.fingerprints, np.int64), stored)


def _check_file(file: SourceFile, task: str, columns: Group, table: Path | None) -> Part:
    """Check every row of one file; canonical rows go to files whose names start like `table`."""
    module, name = load_task(task), file.name
    wanted = named_by(columns, module.columns_of(columns))
    others = module.other_columns(columns) if hasattr(module, "other_columns") else NO_OTHERS
    findings = Findings(name)
    kind = detect(file, findings)
    if kind == "jsonl":
        part = check_jsonl(name, file.path, task, columns, table)
    else:
        part = check_rows(name, lambda seen: read_rows(file, kind, wanted, seen, others), task, columns, table)
    part.findings.extend(findings, 0, 0)
    if part.unused:
        part.findings.repair("DATA-F0601", f"columns not used: {', '.join(part.unused)}")
    if not len(part.places) and not part.findings.bad_rows:
        fault = Fault("DATA-E0108", "", "0 rows", "rows", "fill the file, or leave the parameter empty")
        part.findings.fault(fault)
    return part


def _bring_all(
    sources: dict[str, str], folder: Path
) -> tuple[dict[str, SourceFile], list[Problem], dict[str, list[tuple[str, str]]]]:
    """Open every source; one that is not there is a problem, and the others are looked at all the same."""
    files: dict[str, SourceFile] = {}
    problems: list[Problem] = []
    notes: dict[str, list[tuple[str, str]]] = {name: [] for name in sources}
    for name, uri in sources.items():
        try:
            given = DataSource(**{f"{name}_file_path": uri})
            opened = open_source(name, given, folder, lambda code, what, of=notes[name]: of.append((code, what)))  # type: ignore[misc]
            if len(opened) == 1:
                files[name] = opened[0]
            else:
                problems.append(
                    Problem("DATA-E0110", f"{name}_file_path", f"{len(opened)} files at {uri!r}", "one file",
                            "join the files")
                )  # fmt: skip
        except UserError as error:
            problems += error.problems
    return files, problems, notes


def _split(
    files: dict[str, Rows], how: Literal["shuffled", "positional"], seed: int, least: int, strata: array[int]
) -> dict[str, Rows]:
    """Make the missing splits from the training rows. Raises UserError when too few are left."""
    train = files["train"]
    alike = np.frombuffer(strata, np.int64) if strata else None
    parts = split_rows(len(train), set(files) - {"train"}, how, seed, alike)
    rows = {name: train.take(parts[name]) if name in parts else files[name] for name in SPLITS}
    if len(rows["train"]) >= least and all(len(part) for part in rows.values()):
        return rows
    held_out = " and ".join(name for name in SPLITS[1:] if name in parts)
    after = f" of {len(train)} after {held_out} took their share" if held_out else ""
    raise UserError(
        Problem("DATA-E0701", train.source, f"{len(rows['train'])} training rows{after}",
                f"at least {max(least, 1)}, and one row for every split", "add rows, or lower min_train_rows")
    )  # fmt: skip
