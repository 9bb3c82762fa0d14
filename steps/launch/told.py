"""The error of a process as text, in a file for the process that started it."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from steps import errors
from steps.artifacts import write_durably
from steps.errors import Outage, Preempted, Problem, StepError
from steps.exhausted import told_by_code
from steps.pruning import Pruned

KINDS = {one.__name__: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, StepError)}


def as_text(error: StepError | Pruned) -> str:
    """Return an error as JSON."""
    if isinstance(error, Pruned):
        return json.dumps({"pruned": error.args})
    told: dict[str, Any] = {
        "class": type(error).__name__,
        "problems": [asdict(problem) for problem in error.problems],
        "resume_from": error.resume_from,
        "transient": error.transient,
        "notes": getattr(error, "__notes__", []),
    }
    return json.dumps(told, ensure_ascii=False)


def from_text(text: str) -> StepError | Pruned:
    """Return the error that `as_text` wrote."""
    told = json.loads(text)
    if "pruned" in told:
        return Pruned(*told["pruned"])
    problems = [Problem(**{**problem, "rows": tuple(problem["rows"])}) for problem in told["problems"]]
    kind = KINDS[told["class"]]
    error = kind(problems, told["resume_from"])
    if isinstance(error, Outage):
        error.transient = told["transient"]
    for note in told["notes"]:
        error.add_note(note)
    return error


def error_file(folder: Path, rank: int) -> Path:
    """Return where the process of a rank writes its error."""
    return folder / f"rank-{rank}.json"


def tell_error(folder: Path, rank: int, error: StepError | Pruned) -> None:
    """Write the error of the process of a rank; if its disk is full, only its exit code tells of it."""
    with suppress(OSError):
        write_durably(error_file(folder, rank), as_text(error))


def untold(folder: Path, who: str, code: int) -> StepError:
    """Return the error of a process that ended with a code and has written none."""
    if lack := told_by_code(code, folder, who):
        return lack
    return StepError(
        Problem("BUG-E0070", who, f"exit code {code}, and no error of its own", "an error", "report it with the log")
    )


def first_error(folder: Path) -> StepError | Pruned | None:
    """Return the error of the process that failed first, which the errors of the others follow from."""
    files = sorted(folder.glob("rank-*.json"), key=lambda file: (file.stat().st_mtime_ns, file.name))
    # All processes stop for the same reason, and only the first knows the checkpoint.
    told = [from_text(file.read_text(encoding="utf-8")) for file in files]
    by_first = [one for file, one in zip(files, told, strict=True) if file == error_file(folder, 0)]
    if by_first and isinstance(told[0], Preempted) and isinstance(by_first[0], Preempted):
        return by_first[0]
    return told[0] if told else None


def own_error(folder: Path) -> StepError | Pruned | None:
    """Return the first error after a request to stop, unless it only follows from the stop.

    A process that has not begun ends at once. One that has begun then loses it, or waits for it until the agent kills
    it: neither is an error of its own.
    """
    error = first_error(folder)
    return None if isinstance(error, StepError) and error.exit_code == StepError.exit_code else error
