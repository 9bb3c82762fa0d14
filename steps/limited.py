"""Steps in a process whose memory is limited (ulimit -v): its end is told also where it cannot tell it itself.

When a library gets no more memory, it may raise an exception that says so (`steps/exhausted.py`), or another one that
follows from a package that was half imported, or it ends the process. So the step runs in a child, and the first
process tells what the child could not. Without a limit nothing of this is done.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.errors import OutOfResources, StepError
from steps.exhausted import lack_of_memory, memory_limit
from steps.lost import killed, was_killed

LEAST = 512_000_000  # bytes that the libraries of any step reserve, with the stacks of their threads
LEAST_WITH_TORCH = 2_000_000_000  # measured with torch 2.13 for CPUs: its libraries alone are mapped with 1.5 GB
NEAR = 256_000_000  # bytes; a thread's stack and memory of its own, or a library, is reserved at once
STARTING = 30.0  # seconds for a thread to begin, on a machine that is busy
OURS = {0, 2, 3, 4, 5, 6, 7, 70, 130, 143}  # codes of processes that have told their error


def watch_memory(step: str, tell: Callable[[dict[str, Any]], Any]) -> None:
    """Go on in a child if the memory of this process is limited; `tell` reports the error of a child that could not.

    The first process does not return: it ends with the child's exit code.
    """
    if not memory_limit():
        return
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        bound_starts()
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda told, _: os.kill(child, told))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code in OURS or -code in (signal.SIGTERM, signal.SIGINT):
        os._exit(code if code >= 0 else 128 - code)
    if was_killed(code):
        tell(killed(step, code).as_json(step))
    how = f"its process ended with {signal.Signals(-code).name if code < 0 else f'code {code}'}, without a word"
    tell(OutOfResources(lack_of_memory(step, how)).as_json(step))


class _Begun(threading.Event):
    """Tells that a thread has begun; nobody waits for it for ever."""

    def wait(self, timeout: float | None = None) -> bool:
        begun = super().wait(STARTING if timeout is None else timeout)
        if not begun and timeout is None:
            raise MemoryError(f"a thread did not begin within {STARTING:.0f} s")
        return begun


def bound_starts() -> None:
    """Let no start of a thread wait for ever: a thread that gets no memory ends before it tells that it has begun."""
    start = threading.Thread.start

    def started(thread: Any) -> None:
        if not thread._started.is_set():
            thread._started = _Begun()
        start(thread)

    threading.Thread.start = started  # type: ignore[method-assign, assignment]


def refuse_tight(step: str, torch: bool) -> None:
    """Raise OutOfResources if the limit of memory is below what the libraries of a step take when they are loaded."""
    limit, least = memory_limit(), LEAST_WITH_TORCH if torch else LEAST
    if 0 < limit < least:
        raise OutOfResources(lack_of_memory(step, f"its libraries alone reserve {least / 1e9:.1f} GB"))


def at_the_limit(error: BaseException, step: str) -> StepError | None:
    """Return a lack of memory for an unexpected exception in a process that has reserved nearly all that it may."""
    limit = memory_limit()
    if not limit or limit - _most_reserved() > NEAR:
        return None
    said = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return OutOfResources(lack_of_memory(step, f"{_most_reserved() / 1e9:.1f} GB were reserved at {said}"))


def _most_reserved() -> int:
    """Return the most memory that this process has reserved, in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmPeak:")), 0)
