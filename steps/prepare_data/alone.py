"""The data check as a command, `finetune check-data`, without a model or a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steps.artifacts import write_durably
from steps.errors import Problem, UserError, nearest, shown
from steps.params.data import DataSource
from steps.params.group import Group
from steps.params.reading import refused, under_todays_names
from steps.prepare_data.check.checking import DataCheck, check_data
from steps.prepare_data.findings import as_lines
from steps.tasks import TASKS, learns, load_task

log = logging.getLogger("finetune")

FILES = ("train_file_path", "validation_file_path", "test_file_path")


def check_alone(
    task: str, train: str = "", validation: str = "", test: str = "", options: dict[str, Any] | None = None,
    findings: Path | None = None,
) -> None:  # fmt: skip
    """Check data files and log the findings; `findings` is a JSON file for them, also written if the data is refused.

    `options` are the task's own parameters and those of DataSource, by name.
    Raises UserError with every problem of every file.
    """
    if task not in TASKS:
        fix = nearest(task, TASKS) or "name one of them"
        raise UserError(Problem("DATA-E0100", "task", shown(task), f"one of {', '.join(TASKS)}", fix))
    given = {name: value for name, value in zip(FILES, (train, validation, test), strict=True) if value}
    columns, source = _read(task, {**(options or {}), **given})
    try:
        checked = check_data(task, source, columns)
    except UserError as error:
        if findings:
            notes = getattr(error, "__notes__", [])
            found = {"good": False, **error.as_json("check-data"), "notes": notes}
            write_durably(findings, json.dumps(found, indent=1))
        raise
    log.info(_as_text(checked))
    if findings:
        found = {
            "rows": checked.counts,
            "sources": checked.sources,
            "warnings": checked.warnings,
            "repairs": checked.repairs,
        }
        write_durably(findings, json.dumps({"good": True, **found}, indent=1, ensure_ascii=False))


def _read(task: str, options: dict[str, Any]) -> tuple[Group, DataSource]:
    """Split options into those of the task and of DataSource. Raises UserError for unknown names and wrong values."""
    models = (load_task(task).Columns, DataSource)
    known = [name for model in models for name in model.model_fields]
    clashes: list[Problem] = []
    for model in models:
        options, _, twice = under_todays_names(model, options)
        clashes += twice
    problems = clashes + [
        Problem("PARAM-E0101", name, shown(value), f"one of {', '.join(known)}", nearest(name, known) or "leave it out")
        for name, value in options.items()
        if name not in known
    ]
    read: list[Any] = []
    for model in models:
        try:
            read.append(model(**{name: value for name, value in options.items() if name in model.model_fields}))
            problems += read[-1].all_conflicts() if learns(task) or model is not DataSource else []
        except ValidationError as error:
            problems += [refused(model, detail) for detail in error.errors()]
    if problems:
        raise UserError(problems)
    return read[0], read[1]


def _as_text(checked: DataCheck) -> str:
    lines = [", ".join(f"{count:,} rows for {name}" for name, count in checked.counts.items())]
    lines += [f"{count:,} training rows from {name}" for name, count in checked.sources.items()]
    lines += as_lines(checked.warnings, checked.repairs)
    return "\n".join([*lines, "all rows are valid"])
