"""Check every row of every file, without a model; `finetune check-data` runs this, and prepare_data runs it first."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from steps.errors import Problem, StepError, UserError
from steps.params.data import DataSource
from steps.params.group import Group
from steps.params.mixture import read_mixture
from steps.prepare_data.check.gathering import Gathered
from steps.prepare_data.check.mixing import mix_rows
from steps.prepare_data.check.parts import Part, check_jsonl, check_rows
from steps.prepare_data.check.repeats import contradicted, first_of_each, leaked, nearly_equal, repeated
from steps.prepare_data.check.rows import Rows
from steps.prepare_data.check.splitting import SPLITS, split_rows
from steps.prepare_data.findings import DRAWN, Findings, with_notes
from steps.prepare_data.read.csv_rows import DELIMITERS
from steps.prepare_data.read.parquet_rows import differ, layout
from steps.prepare_data.read.processing import process
from steps.prepare_data.read.reading import detect, read_rows
from steps.prepare_data.read.sources import SourceFile, open_source
from steps.sources.user_code import LoadedFunction, load_function
from steps.tasks import NO_OTHERS, Fault, learns, load_task, named_by
from steps.tasks.forms import FormColumns, row_reader

MOST_LEAKED = 0.01  # share of held-out rows that are also in train; above it, evaluation would be meaningless


@dataclass
class DataCheck:
    """The result of a check that found no errors."""

    counts: dict[str, int]
    """Rows of train, validation and test after the split."""
    rows: dict[str, Rows]
    """The rows by split."""
    warnings: list[dict[str, Any]] = field(default_factory=list)
    """{code, what, count, rows} of each warning."""
    repairs: list[dict[str, Any]] = field(default_factory=list)
    """{code, what, count} of each repair without loss."""
    sources: dict[str, int] = field(default_factory=dict)
    """Training rows from each source of a mixture, counting repetitions; empty without a mixture."""


def check_data(
    task: str, source: DataSource, columns: Group | None = None, seed: int = 42, scratch: Path | None = None
) -> DataCheck:
    """Check every row of every file and split them; needs no model.

    With `scratch`, a folder, the canonical rows are stored there; the memory needed is 16 bytes per row.
    Raises UserError with every problem of every file, and as `open_source`.
    """
    columns = columns or load_task(task).Columns()
    process_row = (
        load_function("processing_function", source.processing_function) if source.processing_function else None
    )
    trains = learns(task)
    with TemporaryDirectory() as opened:
        files, notes, problems = _open_all(source, Path(opened) / "files")
        if not problems and not ("train" in files if trains else files):
            raise UserError(list(source.conflicts()))
        unopened = bool(problems)

        def gather(name: str, folder: Path | None) -> Gathered:
            table = (lambda number: folder / f"{name}-{number}") if folder else None
            return _gather(files[name], task, columns, process_row, table)

        splits = {name: gather(name, scratch) for name in files}
        _judge(task, columns, splits)
        problems += [problem for split in splits.values() for problem in split.problems()]
        rows = {name: split.rows(task) for name, split in splits.items()}

        def with_texts() -> dict[str, Rows]:
            return rows if scratch else {name: gather(name, Path(opened)).rows(task) for name in files}

        outlines = {name: split.outlines for name, split in splits.items()}
        compared = trains and not problems
        near = contradicted(rows["train"], splits["train"].asked) if compared else []
        near += nearly_equal(rows, outlines, with_texts) if compared else []
    for split in splits.values():
        split.outlines = array("q")  # used only once, and as large as everything else kept of a row
    warnings = notes["W"] + [warning for split in splits.values() for warning in split.warnings()]
    repairs = notes["F"] + [repair for split in splits.values() for repair in split.repairs()]
    if unopened:
        raise with_notes(UserError(problems), warnings, repairs)
    drawn = _divided(rows, splits, source, seed) if trains else _Drawn(rows, [], [], [])
    warnings += near + drawn.warnings
    repairs += drawn.repairs
    problems += drawn.problems
    if problems:
        raise with_notes(UserError(problems), warnings, repairs)
    sources = _mix(drawn.parts, splits["train"], source) if source.training_data else {}
    counts = {name: len(part) for name, part in drawn.parts.items()}
    return DataCheck(counts, drawn.parts, warnings, repairs, sources)


def _open_all(
    source: DataSource, folder: Path
) -> tuple[dict[str, list[SourceFile]], dict[str, list[dict[str, Any]]], list[Problem]]:
    """Open the files of every split; return a problem for each that cannot be opened, and still check the others."""
    files: dict[str, list[SourceFile]] = {}
    notes: dict[str, list[dict[str, Any]]] = {"W": [], "F": []}
    problems: list[Problem] = []

    def note(code: str, what: str) -> None:
        told = {"code": code, "what": what, "count": 1}
        notes[code[5]].append({**told, "rows": []} if code[5] == "W" else told)

    for name in SPLITS:
        try:
            if found := open_source(name, source, folder, note):
                files[name] = found
        except UserError as error:
            problems += error.problems
    return files, notes, problems


def _gather(
    files: list[SourceFile],
    task: str,
    columns: Group,
    process_row: LoadedFunction | None,
    table: Callable[[int], Path] | None,
) -> Gathered:
    """Check the files of a split in order."""
    split = Gathered()
    split.kept_whole = getattr(load_task(task), "TOGETHER_AS", split.kept_whole)
    layouts = [layout(file.path) for file in files] if len(files) > 1 else []
    for number, file in enumerate(files):
        part = _check_file(file, task, columns, process_row, table(number) if table else None)
        if layouts and differ(layouts[number], next(filter(None, layouts), {})):
            part.findings.repair("DATA-F2402", "columns have another order or type than in the first parquet file")
        split.add(file, part)
    split.warn_of_mixed_forms()
    split.compare_kinds()
    return split


def _check_file(
    file: SourceFile, task: str, columns: Group, process_row: LoadedFunction | None, table: Path | None
) -> Part:
    """Check every row of one file; canonical rows are written to files whose names start with `table`."""
    module = load_task(task)
    wanted = named_by(columns, module.columns_of(columns))
    others = module.other_columns(columns) if hasattr(module, "other_columns") else NO_OTHERS
    if reader := row_reader(task, columns):
        others = FormColumns(reader, others)
    findings = Findings(file.name)
    texts = getattr(module, "PLAIN_TEXTS", False)
    kind = detect(file, findings, texts)
    if texts:
        file = replace(file, sample_by=columns.sample_by)  # type: ignore[attr-defined]
    if texts and kind not in ("", "txt") and columns.sample_by != "line":  # type: ignore[attr-defined]
        findings.warn("DATA-W0132", "sample_by has no effect for files with rows, only for plain text (.txt)")
    if kind == "jsonl" and not process_row:
        part = check_jsonl(file, task, columns, table)
    elif process_row:
        read = lambda seen: process(read_rows(file, kind, None, seen), process_row, seen)  # noqa: E731
        part = check_rows(file.name, read, task, columns, table, kind not in DELIMITERS, file.folder)
    else:
        read = lambda seen: read_rows(file, kind, wanted, seen, others)  # noqa: E731
        part = check_rows(file.name, read, task, columns, table, kind not in DELIMITERS, file.folder)
    part.findings.extend(findings, 0, 0)
    if unused := dict.fromkeys([*part.findings.unused, *part.unused]):
        part.findings.repair("DATA-F0601", f"columns not used: {', '.join(unused)}")
    if not len(part.places) and not part.findings.bad_rows:
        all_dropped = process_row and any(told["code"] == "DATA-W2201" for told in part.findings.warnings)
        dropped = f", as {process_row.name} dropped every row" if process_row and all_dropped else ""
        fault = Fault("DATA-E0108", "", f"0 rows{dropped}", "rows", "fill the file, or leave the parameter empty")
        part.findings.fault(fault)
    return part


def _judge(task: str, columns: Group, splits: dict[str, Gathered]) -> None:
    """Add the task's conclusions from the counts over whole splits."""
    module = load_task(task)
    if hasattr(module, "judge"):
        for judgement in module.judge({name: split.tally for name, split in splits.items()}, columns):
            splits[judgement.split].judge(judgement)


@dataclass
class _Drawn:
    """Every split, what the draw has to tell, and why it is refused."""

    parts: dict[str, Rows]
    warnings: list[dict[str, Any]]
    repairs: list[dict[str, Any]]
    problems: list[Problem]


def _divided(rows: dict[str, Rows], splits: dict[str, Gathered], source: DataSource, seed: int) -> _Drawn:
    """Look for held-out rows that are also in train, and hold out the missing splits."""
    leaks, leaked_rows = leaked(rows, MOST_LEAKED)
    refused = {name: split.refused for name, split in splits.items()}
    drawn = _draw(rows, splits["train"], source, seed, refused)
    counted = all(split.read_to_its_end for split in splits.values())
    return _Drawn(drawn.parts, leaks + drawn.warnings, drawn.repairs, leaked_rows + drawn.problems * counted)


def _draw(rows: dict[str, Rows], gathered: Gathered, source: DataSource, seed: int, refused: dict[str, int]) -> _Drawn:
    """Drop repeated training rows if asked, and hold out the missing splits from the others.

    `refused` counts the rows of each split that were refused. They may be corrected, so that too few rows are only a
    problem if they are too few together with these.
    """
    train, again, repairs = rows["train"], repeated(rows["train"]), []
    alike = np.frombuffer(gathered.strata, np.int64) if gathered.strata else None
    groups = np.frombuffer(gathered.groups, np.int64) if gathered.groups else None
    dropped = 0
    if source.dedup and again:
        kept = first_of_each(train)
        dropped = len(train) - len(kept)
        train, alike = train.take(kept), None if alike is None else alike[kept]
        groups = None if groups is None else groups[kept]
        repairs = [{"code": "DATA-F2403", "what": f"{w['what']} were dropped", "count": w["count"]} for w in again]
        again = []
    given = set(rows) - {"train"}
    equal = groups if groups is not None else train.fingerprints if again else None
    kept_whole = "equal rows" if groups is None else gathered.kept_whole
    if refused["train"]:  # as many rows as there would be, each different
        strangers = np.arange(refused["train"])
        equal = None if equal is None else np.concatenate([equal, strangers])
        numbers = split_rows(len(train) + refused["train"], given, source.split, seed, None, equal)
        parts = rows
    else:
        numbers = split_rows(len(train), given, source.split, seed, alike, equal)
        parts = {name: train.take(numbers[name]) if name in numbers else rows[name] for name in SPLITS}
    sizes = {name: len(numbers[name]) if name in numbers else len(rows[name]) + refused[name] for name in SPLITS}
    held_out = [name for name in SPLITS[1:] if name in numbers]
    if sizes["train"] >= source.min_train_rows and all(sizes.values()):
        taken = {name: sizes[name] for name in held_out}
        repairs += _told_of(taken, source, seed, train, equal, kept_whole)
        return _Drawn(parts, again, repairs, [])
    found = _too_few(sizes, held_out, equal, dropped, kept_whole)
    differ = "" if equal is None or min(sizes.values()) else " that differ"
    problem = Problem("DATA-E0701", train.source, found, f"at least {source.min_train_rows} for training, and one row "
                      "for every split", f"add rows{differ}, or lower min_train_rows")  # fmt: skip
    return _Drawn(parts, again, repairs, [problem])


def _too_few(sizes: dict[str, int], held_out: list[str], equal: np.ndarray | None, dropped: int,
             kept_whole: str) -> str:  # fmt: skip
    """Say how many training rows there are, and what became of the others."""
    total = sizes["train"] + sum(sizes[name] for name in held_out)
    after = [f"holding out {' and '.join(held_out)}"] if held_out else []
    if dropped:
        total += dropped
        after.insert(0, f"dropping {dropped:,} that repeat an earlier row")
    rest = f" of {total:,} after {' and '.join(after)}" if after else ""
    found = f"{sizes['train']:,} training row{'' if sizes['train'] == 1 else 's'}{rest}"
    empty = [name for name in held_out if not sizes[name]]
    if equal is None or not empty:
        return found
    different = len(np.unique(equal))
    if kept_whole == "equal rows":
        what = "different row" if different == 1 else "different rows"
    else:
        what = "group of rows" if different == 1 else "groups of rows"
    return f"{found}, but only {different:,} {what}: {kept_whole} stay in one split, none is left for " \
           f"{' and '.join(empty)}"  # fmt: skip


def _told_of(
    taken: dict[str, int],
    source: DataSource,
    seed: int,
    train: Rows,
    equal: np.ndarray | None,
    kept_whole: str,
) -> list[dict[str, Any]]:
    """Return a note that says which splits were held out from the training rows, and how."""
    if not taken:
        return []
    rows = " and ".join(f"{count:,} rows for {name}" for name, count in taken.items())
    how = f"shuffled with the seed {seed}" if source.split == "shuffled" else "from the end"
    if equal is not None and len(np.unique(equal)) < len(equal):
        how += f"; {kept_whole} stay in one split"
    what = f"{train.source}: {rows} were taken from the training rows, {how}"
    return [{"code": DRAWN, "what": what, "count": sum(taken.values())}]


def _mix(parts: dict[str, Rows], train: Gathered, source: DataSource) -> dict[str, int]:
    """Reorder the training rows as the mixture says; return the number of rows from each source."""
    mixture, _ = read_mixture(source.training_data)
    assert mixture
    labels = list(dict.fromkeys(file.source for file in train.files))
    of_file = np.array([labels.index(file.source) for file in train.files])
    of_row = of_file[parts["train"].files]
    if mixture.type != "CONCATENATION":
        weights = {part.label: part.sampling_weight for part in mixture.datasets}
        try:
            order = mix_rows(of_row, [weights[label] for label in labels], source.mixing_seed)
        except ValueError as error:
            raise _unmixable(error) from None
        parts["train"], of_row = parts["train"].take(order), of_row[order]
    counts = np.bincount(of_row, minlength=len(labels)).tolist()
    return dict(zip(labels, counts, strict=True))


def _unmixable(error: ValueError) -> StepError:
    return UserError(
        Problem("DATA-E2301", "training_data", str(error), "rows of every source after the split",
                "add rows to the small source, or set its weight to 0")
    )  # fmt: skip
