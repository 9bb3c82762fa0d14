"""A Python that loads libraries once and forks a child for every piece of code, as fresh as a new process after them.

Libraries like torch and mlflow take five seconds to load; a fork takes a hundredth.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
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
            task = {"code": code, "arguments": arguments, "cwd": str(cwd), "environment": dict(environment),
                    "files": list(map(str, files))}  # fmt: skip
            assert self._server.stdin
            assert self._server.stdout
            self._server.stdin.write(json.dumps(task) + "\n")
            self._server.stdin.flush()
            told = self._server.stdout.readline()
            assert told, "the server ended"
            out, err = (file.read_text() if file.exists() else "" for file in files)
        return subprocess.CompletedProcess([code, *arguments], int(told), out, err)

    def close(self) -> None:
        """End the process."""
        self._server.communicate(timeout=300)


def serve(modules: list[str]) -> None:
    """Load the modules, then fork for every line of stdin and tell how the child ended."""
    tell = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    for module in modules:
        importlib.import_module(module)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _become(json.loads(line))
        _, status = os.waitpid(child, 0)
        tell.write(f"{os.waitstatus_to_exitcode(status)}\n")


def _become(task: dict) -> None:
    code = 1
    try:
        for target, name in enumerate(task["files"], start=1):
            os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), target)
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
