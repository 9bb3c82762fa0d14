"""Removes secrets from what other processes and libraries print without the Python of this process.

A training's processes, vLLM's, DeepSpeed's and a library in C write to descriptors 1 and 2. From `mask_children` on
these are pipes to a process that does nothing but pass the text on, without secrets, to where they led before. It is a
process because a thread would lose the last words of one that is killed. What this process itself prints from Python is
masked already (`mask_output`), and goes to its place directly: it waits for nothing, and is not lost after a kill.
"""

from __future__ import annotations

import codecs
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from steps.outlets import Outlet, outlet
from steps.redaction import Printed, masking

QUIET = 0.3  # seconds without more of a line, after which its beginning is passed on, such as of a progress bar
LATE = 0.6  # seconds after which the beginning of a line that goes on slowly is passed on
AT_ONCE = 1 << 16  # bytes that are read at once
LONGEST = 1 << 18  # characters of a line that are kept back until it ends
WITHHELD = "(text that could not be searched for secrets)\n"
_OUTPUTS = (1, 2)
OWN: list[int] = []  # descriptors of what this process itself prints; empty before `mask_children`
_kept: list[TextIO] = []  # one that is deleted would close its descriptor
_ended: list[int] = []  # readable when the process that passes on has ended


def mask_children() -> None:
    """Let whatever is printed to descriptors 1 and 2 from now on be without credentials, whoever prints it.

    To be called once, before other processes and threads are started.
    """
    if sys.stdout is None or sys.stderr is None or _ended:
        return
    with suppress(OSError):  # without room for this process there is none for those whose output it would read
        _stand_between()


def settle(seconds: float = 1.0) -> None:
    """Take no more output of other processes, and wait until what they have printed is passed on."""
    if not _ended:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in _OUTPUTS:
        os.dup2(nowhere, output)
    select.select(_ended, [], [], seconds)


def _stand_between() -> None:
    streams = [sys.stdout, sys.stderr]
    for stream in streams:
        stream.flush()
    own = [os.dup(output) for output in _OUTPUTS]
    shared = os.path.sameopenfile(*_OUTPUTS)  # in one pipe the lines of both keep their order
    pipes = [os.pipe()] * 2 if shared else [os.pipe(), os.pipe()]
    ended = os.pipe()
    if (child := os.fork()) == 0:
        _become_reader({pipe[0]: place for pipe, place in reversed(list(zip(pipes, own, strict=True)))}, ended[1])
    failed = os.waitpid(child, 0)[1]
    for output, (_, writing) in zip(_OUTPUTS, pipes, strict=True):
        if not failed:
            os.dup2(writing, output)
    for one in {*(end for pipe in pipes for end in pipe), ended[1]}:
        os.close(one)
    if failed:
        for one in (ended[0], *own):
            os.close(one)
        return
    _ended.append(ended[0])
    _kept.extend(streams)
    OWN.extend(own)
    names = ("stdout", "stderr")
    sys.stdout, sys.stderr = (masking(outlet(*one)) for one in zip(names, own, streams, strict=True))


def _become_reader(places: dict[int, int], ended: int) -> None:
    """Pass on, in a process that nobody waits for, stops or kills together with this one's children; never returns."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            _close_all_but({*places, *places.values(), ended})
            pass_on(places)
        code = 0
    finally:
        os._exit(code)


def _close_all_but(needed: set[int]) -> None:
    """Close every other descriptor: a pipe ends when nobody holds its other end, a lock too."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in needed:
            with suppress(OSError):  # the one of the list itself
                os.close(int(name))


def pass_on(places: dict[int, int]) -> None:
    """Write what comes out of each pipe to its place, without credentials, until nobody can write to the pipes."""
    flows = {pipe: Flow(place) for pipe, place in places.items()}
    while flows:
        waits = [flow.until for flow in flows.values() if flow.until]
        ready = select.select(list(flows), [], [], max(min(waits) - time.monotonic(), 0) if waits else None)[0]
        for pipe in ready:
            if content := os.read(pipe, AT_ONCE):
                flows[pipe].take(content)
            else:
                flows.pop(pipe).end()
        for flow in flows.values():
            flow.look()


class Flow:
    """Text on its way to a descriptor: whole lines at once, the beginning of a line when it has waited."""

    def __init__(self, place: int, clock: Callable[[], float] = time.monotonic):
        self.until = 0.0
        """When the beginning of a line is due; 0 without one."""
        self._outlet, self._clock = Outlet("output", place), clock
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._printed = Printed()
        self._line, self._since = "", 0.0

    def take(self, content: bytes) -> None:
        """Take what was printed next."""
        text = self._decoder.decode(content)
        ended = max(text.rfind("\n"), text.rfind("\r")) + 1
        if ended:
            self._tell(self._line + text[:ended])
            self._line, self._since = "", 0.0
        self._line += text[ended:]
        if len(self._line) > LONGEST:
            self._tell_begun()
        if self._line:
            now = self._clock()
            self._since = self._since or now
            self.until = min(now + QUIET, max(self._since + LATE, now))
        else:
            self.until = self._since = 0.0

    def look(self) -> None:
        """Pass on the beginning of a line that is due."""
        if self.until and self._clock() >= self.until:
            if self._clock() < self._since + LATE:
                self._tell(self._line)
                self._line = ""
            else:
                self._tell_begun()
            self._since = self._clock() if self._line else 0.0
            self.until = self._since + QUIET if self._line else 0.0

    def end(self) -> None:
        """Pass on the rest."""
        self._tell(self._line + self._decoder.decode(b"", True))

    def _tell_begun(self) -> None:
        """Pass on the whole words of a line that goes on."""
        cut = max(self._line.rfind(" "), self._line.rfind("\t")) + 1 or len(self._line)
        self._tell(self._line[:cut])
        self._line = self._line[cut:]

    def _tell(self, text: str) -> None:
        try:
            told = self._printed.masked(text)
        except Exception:
            told = WITHHELD
        left = memoryview(told.encode("utf-8", "surrogateescape"))
        while left:  # what nobody takes is dropped: whoever prints must neither wait nor end for it
            left = left[self._outlet.write(left) :]
