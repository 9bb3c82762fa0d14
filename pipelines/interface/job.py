"""What the process of a job does: reads its values from job.json, works, and writes answer.json beside it.

python -m pipelines.interface.job run FOLDER
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.interface.process import ANSWER
from steps.errors import StepError
from steps.outlets import open_outlets
from steps.running import attempt, failure, follow_parent, mask_children


def main() -> None:
    """Do the job that the command line names; its errors are in the answer."""
    job, folder = sys.argv[1], Path(sys.argv[2])
    follow_parent()
    open_outlets()
    values = json.loads((folder / "job.json").read_text("utf-8"))
    try:
        answer = {"value": JOBS[job](folder, **values)}
    except Exception as error:
        answer = {"error": _told(failure(error, job))}
    draft = folder / f".{ANSWER}"
    draft.write_text(json.dumps(answer, ensure_ascii=False), encoding="utf-8")
    draft.rename(folder / ANSWER)


def _plan(folder: Path, pipeline: str, given: dict[str, Any], root: str) -> None:
    from pipelines.runs import plan

    plan(pipeline, given, Path(root), folder)


def _run(folder: Path, pipeline: str, given: dict[str, Any], root: str, cache: bool) -> dict[str, Any]:
    from pipelines.runs import run

    return run(pipeline, given, Path(root), cache, quiet=False)


def _check_data(folder: Path, **values: Any) -> None:
    attempt("check-data", findings=folder / "findings.json", **values)


JOBS: dict[str, Callable[..., Any]] = {"plan": _plan, "run": _run, "check-data": _check_data}


def _told(error: StepError) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "problems": [dataclasses.asdict(problem) for problem in error.problems],
        "resume_from": error.resume_from,
        "notes": getattr(error, "__notes__", []),
    }


if __name__ == "__main__":
    mask_children()
    main()
