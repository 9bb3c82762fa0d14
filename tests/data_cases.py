"""One line per kind of bad data: the content of the file, and the expected message.

The tables are in tests/steps/test_data_*.py; a case's number is its row in the catalogue of bad data, 0 for those that
are not in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checking import check_data

from steps.errors import Problem, StepError, UserError
from steps.params.group import Group
from steps.prepare_data.check.checking import DataCheck
from steps.tasks import load_task

# CODE where: found …; expected …. Fix: … Where names the file, the row and the column as far as there are any.
SIX_PARTS = re.compile(
    r"^[A-Z]+-E\d{4} (?P<where>.+?): found (?P<found>.+?); expected (?P<expected>.+?)\. Fix: .+", re.S
)


@dataclass
class Case:
    """Files, and the verdict on them."""

    number: int
    what: str
    """A few words, used as the test's name."""
    train: bytes | str
    verdict: str
    """Code: DATA-E… refuses, DATA-W… warns, DATA-F… repairs, "" accepts."""
    place: str = ""
    """What stands behind the file's name, such as ":2 (record 2) messages[1].role"."""
    says: str = ""
    """Words that the message must hold."""
    name: str = "train.jsonl"
    validation: bytes | str = b""
    test: bytes | str = b""
    task: str = ""
    """Empty takes the table's."""
    options: dict[str, Any] = field(default_factory=dict)
    """The task's own parameters."""
    exit_code: int = 2
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number} {self.what}"


def check_verdict(case: Case, folder: Path, task: str) -> DataCheck | None:
    """Check the files of a case and assert its verdict; what the check gave when the files were taken."""
    files = {}
    for role, content in (("train", case.train), ("validation", case.validation), ("test", case.test)):
        if content:
            name = case.name if role == "train" else f"{role}{Path(case.name).suffix}"
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
            files[role] = folder / name
        elif role == "train":
            (folder / case.name).write_bytes(b"")
            files[role] = folder / case.name
    columns: Group = load_task(case.task or task).Columns(**case.options)
    try:
        checked = check_data(case.task or task, columns=columns, min_train_rows=1, **files)  # type: ignore[arg-type]
    except StepError as error:
        _assert_refused(case, error, folder)
        return None
    told = notes(checked)
    assert not case.verdict.startswith("DATA-E"), f"accepted; told {told}"
    if case.verdict:
        assert case.verdict in told, told
        assert told[case.verdict]["count"] == case.count, told
        assert case.says in told[case.verdict]["what"]
    return checked


def notes(checked: DataCheck) -> dict[str, dict[str, Any]]:
    """Return the repairs and warnings of a check by their codes."""
    return {note["code"]: note for note in checked.repairs + checked.warnings}


def refused(task: str, *files: Path | str, **given: Any) -> list[Problem]:
    """Check files that are refused, and return the problems."""
    with pytest.raises(UserError) as error:
        check_data(task, *files, **given)
    for problem in error.value.problems:
        assert_six_parts(str(problem))
    return error.value.problems


def refusals(task: str, *files: Path | str, **given: Any) -> dict[str, Problem]:
    """Check files that are refused, and return the problems by their codes."""
    return {problem.code: problem for problem in refused(task, *files, **given)}


def _assert_refused(case: Case, error: StepError, folder: Path) -> None:
    assert case.verdict.startswith("DATA-E"), str(error)
    assert error.exit_code == case.exit_code
    fitting = [problem for problem in error.problems if problem.code == case.verdict]
    assert fitting, str(error)
    for problem in error.problems:
        assert_six_parts(str(problem))
    texts = [str(problem) for problem in fitting if _place(problem.where, folder) == case.place]
    assert texts, [_place(problem.where, folder) for problem in fitting]
    assert any(case.says in text for text in texts), texts
    assert case.count in [problem.count for problem in fitting], [problem.count for problem in fitting]


def assert_six_parts(message: str) -> None:
    """A message says file, row, column, what was found, what was expected and how to fix it, on one line."""
    parts = SIX_PARTS.match(message)
    assert parts, message
    assert message.isprintable(), message
    assert all(part.strip() for part in parts.groups()), message
    assert len(parts["found"]) <= 160, message


def _place(where: str, folder: Path) -> str:
    return re.sub(rf"^{re.escape(str(folder))}/[^:\s]+", "", where)
