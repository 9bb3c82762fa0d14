"""What processes get from the one that starts them: where its code is, its requests to stop, and their end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from steps.stopping import was_asked_to_stop

log = logging.getLogger("finetune")


class StopRequest:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.number = signal.SIGTERM

    def __bool__(self) -> bool:
        return self.event.is_set()

    def note(self, number: int, _frame: FrameType | None) -> None:
        """Remember a signal; it is the handler of SIGTERM and Ctrl-C."""
        self.number = signal.Signals(number)
        self.event.set()


@contextmanager
def noting_stops() -> Iterator[StopRequest]:
    """Note SIGTERM and Ctrl-C in this block, in place of what they would do; a request before the block counts."""
    asked = StopRequest()
    if was_asked_to_stop():
        asked.event.set()
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, asked.note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def python_path() -> str:
    """Return PYTHONPATH for processes that find this project's code wherever this process found it."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(paths))


def end_group(process: subprocess.Popen[Any], grace: float, name: str) -> None:
    """Stop a process with a group of its own and all that it started: ask, wait `grace` seconds, kill what is left."""
    import psutil

    started = _descendants(process.pid)
    if process.poll() is None and grace:
        _send(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
        if process.poll() is None:
            log.warning("WARNING %s does not stop: killing it after %g s", name, grace)
    _send(process.pid, signal.SIGKILL)
    process.wait()
    for one in started:  # those with a session of their own
        with suppress(psutil.Error):
            one.kill()


def _send(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _descendants(pid: int) -> list[Any]:
    import psutil

    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []
