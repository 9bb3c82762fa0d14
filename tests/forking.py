"""A Python that loads libraries once and forks a child for every piece of code, as fresh as a new process after them.

Libraries like torch and mlflow take five seconds to load; a fork takes a hundredth.
"""

import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path


class ForkingPython:
    """Runs code in children of one process, which has loaded `modules` and nothing else."""

    def __init__(self, modules: list[str], environment: Mapping[str, str] = os.environ):
        self.environment = dict(environment)
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, *modules], env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, code: str, *arguments: str, cwd: Path, **environment: str) -> str:
        """Run code as `python -c` would, with these changes of the environment; give what it prints.

        Raises AssertionError with the end of its stderr when it fails.
        """
        done = self.ended(code, *arguments, cwd=cwd, environment={**self.environment, **environment})
        assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
        return done.stdout

    def ended(
        self, code: str, *arguments: str, cwd: Path, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess:
        """Run code as `python -c` would, in this environment, and tell how it ended."""
        with tempfile.TemporaryDirectory() as scratch:
            files = [Path(scratch, name) for name in ("out", "err")]
            started = self.start(code, *arguments, cwd=cwd, environment=environment, files=files)
            ended = started.wait()
            out, err = (file.read_text() if file.exists() else "" for file in files)
        return subprocess.CompletedProcess([code, *arguments], ended, out, err)

    def start(
        self, code: str, *arguments: str, cwd: Path, environment: Mapping[str, str], files: Sequence[Path]
    ) -> "Fork":
        """Start code as `python -c` would; what it prints and its stderr are added to two files."""
        task = {"code": code, "arguments": arguments, "cwd": str(cwd), "environment": dict(environment),
                "files": list(map(str, files))}  # fmt: skip
        return Fork(self, self.answer(task))

    def answer(self, question: dict) -> int:
        """Ask the process to start a child, or how one has ended."""
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(question) + "\n")
        self._server.stdin.flush()
        told = self._server.stdout.readline()
        assert told, "the server ended"
        return int(told)

    def close(self) -> None:
        """End the process."""
        self._server.communicate(timeout=300)


class Fork:
    """A child that runs; it stays known by its number until its end was waited for."""

    def __init__(self, python: ForkingPython, pid: int):
        self.pid = pid
        self.returncode: int | None = None
        self._python = python

    def send_signal(self, number: int) -> None:
        """Send a signal, which a child that has ended does not get."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the child."""
        self.send_signal(signal.SIGKILL)

    def wait(self, seconds: float | None = None) -> int:
        """Return how the child ended, when it has; raises AssertionError if it has not after `seconds`."""
        assert self._has_ended(seconds), f"it did not end in {seconds} s"
        if self.returncode is None:
            self.returncode = self._python.answer({"ended": self.pid})
        return self.returncode

    def poll(self) -> int | None:
        """Return how the child ended, or None while it runs."""
        return self.wait() if self._has_ended(0) else None

    def _has_ended(self, seconds: float | None) -> bool:
        if self.returncode is not None:
            return True
        process = os.pidfd_open(self.pid)
        try:
            return bool(select.select([process], [], [], seconds)[0])
        finally:
            os.close(process)


def serve(modules: list[str]) -> None:
    """Load the modules, then fork for every task on stdin and tell the child's number, or how one has ended."""
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that a collection in a child neither looks at all of this nor copies its memory
    for line in sys.stdin:
        asked = json.loads(line)
        if "ended" in asked:
            told = os.waitstatus_to_exitcode(os.waitpid(asked["ended"], 0)[1])
        elif (told := os.fork()) == 0:
            tell.close()
            _become(asked)
        tell.write(f"{told}\n")


def _become(task: dict) -> None:
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for target, name in enumerate(task["files"], start=1):
            os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), target)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        os.environ.clear()
        os.environ.update(task["environment"])
        os.chdir(task["cwd"])
        sys.path[0] = ""
        sys.argv = ["-c", *task["arguments"]]
        exec(compile(task["code"], "<string>", "exec"), {"__name__": "__main__"})
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve(sys.argv[1:])
