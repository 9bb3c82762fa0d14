"""Standard output and error of a process whose work must not depend on who reads them.

What nobody takes is dropped: the reader has ended, the disk is full, the stream is closed, or the reader has stopped
for a while. So a training neither fails nor waits for a terminal or a collector of logs. What is taken has no
credentials in it (`redaction.py`).
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from steps.redaction import behind, mask_output, moved

PATIENCE = 60.0  # seconds that a process waits in all for a reader that has stopped; later it drops what is not taken
REGAINED = 0.01  # seconds of them, with each piece that is taken at once
PIECE = 4096  # bytes; a pipe that takes any takes as many without waiting
_wholly = False
_replaced: list[Any] = []  # kept, because a stream that is deleted closes its file


def open_outlets() -> None:
    """Let this process print what is taken, without credentials, and drop the rest.

    Streams that somebody has replaced, such as a test or a notebook, stay as they are.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        _fill(number)
        stream = getattr(sys, name)
        if number and _is_own(behind(stream)):
            place = number
            with suppress(OSError, ValueError, AttributeError):
                place = stream.fileno()
                stream.flush()
            _replaced.append(behind(stream))
            opened = moved(stream, outlet(name, place, behind(stream)))
            if stream is getattr(sys, f"__{name}__"):
                setattr(sys, f"__{name}__", opened)
            setattr(sys, name, opened)
    mask_output()


@contextmanager
def wholly() -> Iterator[None]:
    """Print a result: without room on a disk for it, OSError is raised."""
    global _wholly
    _wholly = True
    try:
        yield
        sys.stdout.flush()
    finally:
        _wholly = False


def _fill(number: int) -> None:
    """Open a stream that is closed: the next file that is opened would get its number, and what is printed."""
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)


def _is_own(stream: Any) -> bool:
    """Return whether a stream is the process's own and not, say, a test's; None is one that was closed at the start."""
    if type(stream) is not io.TextIOWrapper:
        return stream is None
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), io.FileIO)  # without a buffer by PYTHONUNBUFFERED


def outlet(name: str, number: int, stream: Any) -> io.TextIOWrapper:
    """Return a text stream to a descriptor that behaves as another stream, and drops what nobody takes."""
    errors = getattr(stream, "errors", "strict")
    # A character that the terminal does not know is no reason to end a training either.
    errors = "backslashreplace" if errors == "strict" else errors
    buffer = io.BufferedWriter(Outlet(name, number))
    return io.TextIOWrapper(buffer, getattr(stream, "encoding", "utf-8"), errors, line_buffering=True)


class Outlet(io.RawIOBase):
    """Writes into a stream of this process what it takes."""

    def __init__(self, name: str, number: int):
        self.name = f"<{name}>"
        self._number = number
        self._patience = PATIENCE

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        if self._takes_more():
            try:
                return os.write(self._number, memoryview(data)[:PIECE])
            except OSError as error:
                if _wholly and error.errno != errno.EPIPE:
                    raise
        return len(data)

    def _takes_more(self) -> bool:
        waiting = select.poll()
        waiting.register(self._number, select.POLLOUT)
        if waiting.poll(0):
            self._patience = min(PATIENCE, self._patience + REGAINED)
            return True
        started = time.monotonic()
        ready = bool(waiting.poll(self._patience * 1000)) if self._patience else False
        self._patience = max(0.0, self._patience - (time.monotonic() - started)) if ready else 0.0
        return ready
