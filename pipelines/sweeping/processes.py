"""Steps of a sweep on this machine: each is a process with a log of its own, and several run at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.local import environment
from pipelines.scratch import scratch_folder
from pipelines.warm import warm_python
from steps.errors import OutOfResources, Problem
from steps.running import CURVE, RECORDS, bug, told_by_code

POLL = 0.1  # seconds
SAVING = 60.0  # seconds in which steps save and end, before they are killed
LONGEST = 100_000  # characters of settings; the system takes 131,072 bytes in one argument


@dataclass
class Job:
    """One step that runs as a process."""

    step: str
    process: subprocess.Popen[bytes]
    log: Path
    records: Path

    @property
    def code(self) -> int | None:
        """The exit code; None while the step runs."""
        return self.process.poll()

    @property
    def error(self) -> dict[str, Any]:
        """The error of a step that failed, in the form of `StepError.as_json`."""
        for file in sorted(self.records.glob("*.json"), reverse=True):
            with contextlib.suppress(OSError, ValueError):
                if found := json.loads(file.read_text("utf-8")).get("error"):
                    return dict(found)
        return self._without_words()

    def _without_words(self) -> dict[str, Any]:
        """Return the error of a process that reported none: it was killed, or could not start."""
        code = self.code or 0
        number = -code if code < 0 else code - 128
        if lack := told_by_code(code, self.log, self.step):  # the full disk took neither its record nor its last words
            return lack.as_json(self.step)
        killed = number in {one.value for one in signal.Signals}
        found = f"its process was ended by {signal.Signals(number).name}" if killed else f"exit code {code}"
        why = "lower per_device_train_batch_size or max_parallel if memory ran out" if killed else f"see {self.log}"
        problem = Problem("SWEEP-E0301", self.step, found, "a process that ends by itself", why)
        own = bug(RuntimeError(found)).as_json(self.step)
        kind = {"code": OutOfResources.exit_code, "class": OutOfResources.__name__} if killed else {}
        told = {"retryable": True, "where": self.step, "found": found, "fix": why, "problems": [str(problem)]}
        return {**own, **kind, **told}


class Stopped(Exception):
    """The sweep was asked to stop; started again, it goes on."""


class StepFailed(Exception):
    """A step that a sweep needs failed; `outcome` is its error."""

    def __init__(self, outcome: dict[str, Any]):
        self.outcome = outcome
        super().__init__("\n".join(outcome["problems"]))


class Processes:
    """Starts steps, and stops them together."""

    def __init__(self, warm: Path | None):
        self._python = str(warm / "python3") if warm else sys.executable
        self._running: list[Job] = []
        self._asked: set[tuple[int, float]] = set()
        self.stopping = False

    def start(self, step: str, log: Path, curve: Path | None = None, **arguments: Any) -> Job:
        """Start a step; waits for a process of the same log that an earlier driver has left behind.

        `arguments` are settings as text, and the paths of the step. Raises Stopped after a request to stop.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        records = log.with_suffix(".records")
        with open(log, "ab") as output:
            fcntl.flock(output, fcntl.LOCK_EX)  # the step inherits it, so it holds until its last process ends
            records.mkdir(exist_ok=True)
            for old in records.glob("*.json"):
                old.unlink()
            words = [word for name, value in arguments.items() for word in _flag(name, value, records)]
            if self.stopping:
                raise Stopped
            process = subprocess.Popen(
                [self._python, "-m", "steps", step, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, RECORDS: str(records), **({CURVE: str(curve)} if curve else {})},
            )
        job = Job(step, process, log, records)
        self._running.append(job)
        return job

    def run(self, step: str, log: Path, **arguments: Any) -> None:
        """Run a step to its end. Raises StepFailed with its error, Stopped after a request to stop."""
        job = self.start(step, log, **arguments)
        while job.code is None:
            time.sleep(POLL)
            if self.stopping:
                self.stop()
        self.forget(job)
        if job.code and self.stopping:
            raise Stopped
        if job.code:
            raise StepFailed(job.error)

    def forget(self, job: Job) -> None:
        """Leave out a job that has ended."""
        self._running.remove(job)

    def stop(self) -> None:
        """Ask every step to save and to end; none starts any more.

        To be called again until all have ended: a step that waits for the warm process has no process of its own yet.
        Each process is asked once, because a second SIGTERM ends it at once.
        """
        import psutil

        self.stopping = True
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                known = child.pid, child.create_time()
                if known not in self._asked:
                    self._asked.add(known)
                    child.send_signal(signal.SIGTERM)

    def end(self, seconds: float = SAVING) -> None:
        """End what still runs because the sweep has failed: ask it to save, and kill it after so many seconds."""
        import psutil

        limit = time.monotonic() + seconds
        while any(job.code is None for job in self._running):
            if time.monotonic() > limit:
                for child in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.kill()
            self.stop()
            time.sleep(POLL)


@contextlib.contextmanager
def processes(root: Path, parallel: int) -> Iterator[Processes]:
    """Set the environment of a sweep's steps, and start the process that loads their libraries once."""
    with scratch_folder() as scratch, environment(root, {"TMPDIR": str(scratch)}):
        if parallel > 1:  # each would take all cores
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // parallel)))
        with warm_python(at_once=True) as warm:
            steps = Processes(warm)
            try:
                yield steps
            except Exception:
                steps.end()
                raise
            except BaseException:  # a second Ctrl-C
                steps.end(0)
                raise


def _flag(name: str, value: Any, records: Path) -> list[str]:
    """Return the words of an argument; settings that are too long for one are passed as a file."""
    text = str(value)
    if name == "settings" and len(text.encode()) > LONGEST:
        file = records.with_suffix(".settings")
        file.write_text(text, encoding="utf-8")
        text = f"@{file}"
    return [f"--{name.replace('_', '-')}", text]
