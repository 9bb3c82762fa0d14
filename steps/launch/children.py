"""What processes get from the one that starts them: where its code is, and its requests to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from steps.running import was_asked_to_stop


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
