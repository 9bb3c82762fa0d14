"""Drives a sweep and writes how it ended: in the foreground, or as a process that goes on without its notebook."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.log_file import open_log
from pipelines.sweeping.driver import Driver
from pipelines.sweeping.folder import LOG, SweepFolder, read_json, write_json
from pipelines.sweeping.processes import StepFailed, Stopped
from steps.errors import StepError
from steps.outlets import open_outlets
from steps.running import failure, leave, stopped
from steps.stopping import stop_when_asked

OUTCOME = "outcome.json"
DETACHED = "driver.txt"  # what a driver without a terminal prints


def drive(folder: SweepFolder, show: Callable[[str], None] = print) -> dict[str, Any]:
    """Run a sweep to its end and return its outcome: state (finished, failed, stopped) and error.

    Raises UserError if another process runs it.
    """
    with open_log(folder.path / LOG) as log:

        def told(line: str) -> None:
            log.write(line + "\n")
            log.flush()
            show(line)

        driver = Driver(folder, told)
        outcome: dict[str, Any] = {"state": "finished", "error": None}
        with folder.driven(), contextlib.chdir(folder.working_folder):
            (folder.path / OUTCOME).unlink(missing_ok=True)
            try:
                driver.run()
            except Stopped:
                ended = stopped("sweep")
                fix = f"go on with `finetune sweep --open {folder.name}`: finished trials are not run again"
                ended.problems = [replace(one, fix=fix) for one in ended.problems]
                outcome = {"state": "stopped", "error": ended.as_json("sweep")}
            except StepFailed as failed:
                outcome = {"state": "failed", "error": failed.outcome}
            except Exception as error:
                found = failure(error, "sweep")
                outcome = {"state": "failed", "error": found.as_json("sweep")}
            with contextlib.suppress(OSError):  # a full disk
                write_json(folder.path / OUTCOME, outcome)
    return outcome


def start(folder: SweepFolder) -> None:
    """Start a process that drives a sweep; it does not end with this one."""
    with open(folder.path / DETACHED, "ab") as output:
        subprocess.Popen(
            [sys.executable, "-m", "pipelines.sweeping.run", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )


def outcome_of(folder: SweepFolder) -> dict[str, Any] | None:
    """Return how the sweep ended; None if it has not, or was killed."""
    file = folder.path / OUTCOME
    return read_json(file) if file.is_file() else None


def main(words: list[str]) -> None:
    """Drive the sweep in the folder that is named."""
    open_outlets()
    stop_when_asked()
    try:
        error = drive(SweepFolder(Path(words[0])))["error"]
    except StepError as refused:  # another process runs it, or its folder is damaged
        error = refused.as_json("sweep")
    if error:
        leave(error)


if __name__ == "__main__":
    main(sys.argv[1:])
