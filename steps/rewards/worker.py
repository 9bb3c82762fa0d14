"""A process that compares untrusted texts with libraries that an evil text can keep busy for ever.

Every task has a limit of computing time, after which the system ends the process; memory is limited as well. Computing
time and not time on the clock, so that a busy machine gives the same rewards.
"""

from __future__ import annotations

import atexit
import json
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from typing import Any

MEMORY = 4 << 30  # bytes of address space; sympy needs less than one GiB
PATIENCE = 20  # times as long on the clock as the computing time, before a process counts as stuck
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from steps.rewards.worker import serve; serve()"


class Worker:
    """One process that is started at the first task and again after a task that ended it. Safe in threads and forks."""

    def __init__(self, task: str, seconds: float):
        """Set the task, "module:function" of JSON values, and its limit of computing time."""
        self.task, self.seconds = task, seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._known: dict[str, Any] = {}
        atexit.register(self.close)

    def run(self, *arguments: Any) -> Any:
        """Return the task's result, None if it passed a limit or failed. The same arguments give the same result."""
        asked = json.dumps([self.task, self.seconds, arguments])
        with self._lock:
            if asked not in self._known:
                if len(self._known) > 10_000:
                    self._known.clear()
                self._known[asked] = self._ask(asked)
            return self._known[asked]

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process and self._owner == os.getpid():
            process.kill()
            process.communicate()

    def _ask(self, asked: str) -> Any:
        for _ in range(2):
            process = self._started()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(asked.encode() + b"\n")
                process.stdin.flush()
                line = _read_line(process.stdout.fileno(), self.seconds * PATIENCE)
            except OSError:
                line = b""
            if line:
                return json.loads(line)
            passed_limit = _returncode(process) in (None, -signal.SIGPROF)
            self.close()
            if passed_limit:
                break
            # Something else ended it, perhaps before this task: the task is tried once more.
        return None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), self.task],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            assert self._process.stdout is not None
            if not _read_line(self._process.stdout.fileno(), 300):  # of the imports, which take seconds
                raise RuntimeError(f"the worker for {self.task} did not start")
        return self._process


def serve() -> None:
    """Answer tasks from standard input, one JSON text per line, until it closes: its owner has ended then."""
    import importlib

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    importlib.import_module(sys.argv[2].partition(":")[0])
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        task, seconds, arguments = json.loads(line)
        module, _, name = task.partition(":")
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process, also inside of a long computation
        try:
            made = getattr(importlib.import_module(module), name)(*arguments)
        except Exception:  # a text that a library cannot handle is no answer
            made = None
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(json.dumps(made).encode() + b"\n")
        answers.flush()


def _returncode(process: subprocess.Popen[bytes]) -> int | None:
    """Return how a process ended; None if it still runs."""
    try:
        return process.wait(1)
    except subprocess.TimeoutExpired:
        return None


def _read_line(file: int, seconds: float) -> bytes:
    """Read up to a line break; an empty result if the process ended or the time ran out."""
    import time

    end, made = time.monotonic() + seconds, b""
    while not made.endswith(b"\n"):
        left = end - time.monotonic()
        if left <= 0 or not select.select([file], [], [], left)[0]:
            return b""
        part = os.read(file, 65536)
        if not part:
            return b""
        made += part
    return made
