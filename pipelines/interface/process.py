"""Starts a job of the Python interface (`job.py`) in a process of its own, and returns its answer.

A kernel outlives its cells, and may run several jobs at once. A plan hides torch from its process, and a run replaces
stdout and the environment: none of that may happen in a kernel.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps import errors
from steps.errors import OutOfResources, Problem, StepError
from steps.running import PARENT, bug, exhausted

Show = Callable[[str], None]
ANSWER = "answer.json"
TAIL_LINES = 20
IN_KERNEL = "module://"  # begins the drawing library's backend that a kernel sets for itself


class Stopped(Exception):
    """An interrupt stopped the job; `answer` is what it still returned, None if it was too early for one."""

    def __init__(self, answer: Any):
        super().__init__()
        self.answer = answer


def do(job: str, folder: Path, show: Show, **values: Any) -> Any:
    """Run a job and return its answer; `show` gets its lines, and `folder` its files.

    Raises the job's StepError. A KeyboardInterrupt stops the job, a second one kills it; Stopped is raised after both.
    """
    tail: list[str] = []

    def take(line: str) -> None:
        tail[:] = [*tail[-TAIL_LINES:], line]
        show(line)

    command = [sys.executable, "-W", "ignore", "-m", "pipelines.interface.job", job, str(folder)]
    (folder / "job.json").write_text(json.dumps(values), encoding="utf-8")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        encoding="utf-8", errors="replace", env=_environment(),
        process_group=0,  # an interrupt reaches the kernel's group; the job hears of it once, from here
    ) as child:  # fmt: skip
        try:
            stopped = _follow(child, take)
        finally:
            if child.poll() is None:
                child.kill()
    answer = folder / ANSWER
    told = json.loads(answer.read_text("utf-8")) if answer.is_file() else None
    if stopped:
        raise Stopped(told and told.get("value"))
    if told is None:
        raise _without_answer(job, child.returncode, tail)
    if error := told.get("error"):
        raise _error(error, tail)
    return told["value"]


def _follow(child: subprocess.Popen[str], take: Show) -> bool:
    """Pass on the lines of a job until it ends; return whether an interrupt ended it."""
    assert child.stdout
    try:
        for line in child.stdout:
            take(line.rstrip("\n"))
        child.wait()
    except KeyboardInterrupt:
        child.terminate()
        with contextlib.suppress(KeyboardInterrupt):  # the second one: `do` kills the job
            take("stopping; interrupt again to stop at once")
            for line in child.stdout:
                take(line.rstrip("\n"))
            child.wait()
        return True
    return False


def _environment() -> dict[str, str]:
    made = {name: value for name, value in os.environ.items() if not value.startswith(IN_KERNEL)}
    made["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    made["PYTHONUNBUFFERED"] = "1"
    made[PARENT] = str(os.getpid())
    return made


def _error(told: dict[str, Any], tail: list[str]) -> StepError:
    kind: type[StepError] = getattr(errors, told["class"])
    error = kind([Problem(**one) for one in told["problems"]], told["resume_from"])
    for note in told["notes"]:
        error.add_note(note)
    if kind is StepError:  # a bug of ours: its traceback is what the job printed
        error.add_note("\n".join(tail))
    return error


def _without_answer(job: str, code: int, tail: list[str]) -> StepError:
    last = "\n".join(line for line in tail if line.strip())[-2000:] or "no output"
    if code == -9:
        return OutOfResources(
            Problem("RUN-E1501", job, "a process that was killed", "a process that ends by itself",
                    "free memory, or use a smaller batch", why="the system kills one that needs too much memory")
        )  # fmt: skip
    for line in reversed(tail):  # such as of a disk that had no space for the answer
        if lack := exhausted(RuntimeError(line), job):
            return lack
    error = bug(RuntimeError(f"the process of {job} ended with {code} and no answer"))
    error.add_note(last)
    return error
