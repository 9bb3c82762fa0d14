"""Run a Python program of which nothing is known, in a process of its own that is shut in (`jail.py`)."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from steps.errors import Problem, SecurityRefusal
from steps.rewards import jail

PATIENCE = 4  # times as long on the clock as the computing time: a program may sleep, and a machine may be busy


@dataclass(frozen=True)
class Limits:
    """What a program may use."""

    seconds: int = 5
    """Computing time; four times as much on the clock."""
    memory_mib: int = 512
    """Address space."""
    output_bytes: int = 1 << 20
    """Of standard output and standard error together."""


@dataclass(frozen=True)
class Ran:
    """How a program ended."""

    end: Literal["ok", "failed", "time", "output"]
    """"failed" also if it used too much memory or was refused something."""
    output: str
    """Standard output."""
    errors: str = ""
    """Standard error."""


def run(program: str, given: str = "", limits: Limits | None = None) -> Ran:
    """Run a program with a text as its standard input.

    It reads nothing but Python's standard library, writes no file, reaches no network, starts no process and sends no
    signal. Raises SecurityRefusal if this machine cannot shut a program in.
    """
    check_sandbox()
    limits = limits or Limits()
    with TemporaryDirectory(prefix="reward-") as folder:
        source, standard_input = Path(folder) / "solution.py", Path(folder) / "input"
        source.write_text(program, "utf-8", errors="replace")
        standard_input.write_text(given, "utf-8", errors="replace")
        with standard_input.open("rb") as stdin:
            return _run(str(source), folder, stdin.fileno(), limits)


@cache
def check_sandbox() -> None:
    """Raise SecurityRefusal if this machine cannot shut a program in."""
    with TemporaryDirectory(prefix="reward-") as folder, open(os.devnull, "rb") as nothing:
        probed = _run("probe", folder, nothing.fileno(), Limits())
    if probed.end != "ok":
        raise SecurityRefusal(
            Problem("REWARD-E0215", "code", f"no sandbox ({probed.errors.strip()[:200]})",
                    "a Linux kernel with Landlock and seccomp, from 5.13 on, that this container may use",
                    "run on such a machine, or leave the reward code out",
                    why="programs of a model must not run unguarded")
        )  # fmt: skip


def _run(source: str, folder: str, stdin: int, limits: Limits) -> Ran:
    script = [jail.__file__, str(limits.memory_mib << 20), str(limits.seconds), source]
    process = subprocess.Popen(
        [sys.executable, "-s", "-S", "-P", "-B", *script],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=folder, start_new_session=True,
        env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
    )  # fmt: skip
    try:
        output, errors, end = _followed(process, limits)
    finally:
        _kill(process)
    if end == "ok" and process.returncode:
        out_of_time = process.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
        return Ran("time" if out_of_time else "failed", output, errors)
    return Ran(end, output, errors)


def _followed(process: subprocess.Popen[bytes], limits: Limits) -> tuple[str, str, Literal["ok", "time", "output"]]:
    """Read what a program writes until both ends close or a limit is passed."""
    assert process.stdout is not None
    assert process.stderr is not None
    made: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    last = time.monotonic() + limits.seconds * PATIENCE
    end: Literal["ok", "time", "output"] = "ok"
    with selectors.DefaultSelector() as waiting:
        for file in made:
            waiting.register(file, selectors.EVENT_READ)
        while waiting.get_map():
            left = last - time.monotonic()
            ready = waiting.select(left) if left > 0 else []
            if not ready:
                end = "time"
                break
            for key, _ in ready:
                part = os.read(key.fd, 65536)
                made[key.fd] += part
                if not part:
                    waiting.unregister(key.fd)
            if sum(map(len, made.values())) > limits.output_bytes:
                end = "output"
                break
    if end == "ok":
        try:
            process.wait(max(0.1, last - time.monotonic()))  # it may close its output and go on
        except subprocess.TimeoutExpired:
            end = "time"
    output, errors = (bytes(part[: limits.output_bytes]).decode("utf-8", "replace") for part in made.values())
    return output, errors, end


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program, wait for it and close its pipes; it has no children, which the jail refuses."""
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()
