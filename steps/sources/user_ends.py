"""What a user's code does to end the process, or its output, is an error of that code, told with its line.

`os._exit(0)` in a function would end a step as if it had succeeded, and a signal to itself as if the machine had. So
while a file of the user is in the stack of calls, the functions that end a process raise SystemExit instead. Processes
that the user's code starts may end as they like.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import inspect
import os
import posix
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import thread
from contextlib import suppress
from types import FrameType
from typing import Any

from steps.stopping import SIGNALS, is_request

PASSED_OVER = {0, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}  # what a process does not end by
BARE = {threading.__file__, thread.__file__}  # files in the stack of a thread that was given a function of os itself
STREAMS = {1: "standard output", 2: "standard error"}
FRESH = 0.1  # seconds for which what was seen of the streams after one call counts as seen before the next

Place = tuple[int, int] | None
"""Device and inode behind a stream; None if it is closed."""

_exit = os._exit
_files: set[str] = set()  # of users
_refused: list[SystemExit] = []  # also in threads of the user, and caught by the user
_is_child = False  # this process was forked by the user's code
_seen: tuple[float, list[Place]] = (-FRESH, [])


def contained(function: Callable[..., Any], file: str) -> Callable[..., Any]:
    """Return a user's function that raises an error where it would end the process or close its output.

    `file` is where it was loaded from. What is no Exception, and no request to stop, becomes a RuntimeError.
    """
    watch(file)
    if inspect.iscoroutinefunction(function):

        async def called(*given: Any, **named: Any) -> Any:
            with _Call(in_loop=True):
                return await function(*given, **named)

        return functools.wraps(function)(called)

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        with _Call():
            return function(*given, **named)

    return call


def watch(file: str) -> None:
    """From now on, no code of this file ends the process: SystemExit is raised where it wants to."""
    if not _files:
        always: Callable[..., bool] = lambda *_, **__: True  # noqa: E731
        for module in (os, posix):
            for name in ("_exit", "abort", "execv", "execve"):  # what else ends a process in os calls these
                _refuse(module, name, always)
            for name in ("kill", "killpg"):
                _refuse(module, name, _ends_this_process)
        _refuse(signal, "raise_signal", _ends)
        _refuse(signal, "pthread_kill", lambda _thread, number: _ends(number))
        _refuse(faulthandler, "dump_traceback_later", _exits_later)
    _files.add(file)


class _Call:
    """A call of the user's code: it has to leave the streams as they were, and raise only what callers expect."""

    def __init__(self, in_loop: bool = False):
        self._in_loop = in_loop
        self._own = sys.stdout, sys.stderr
        self._handlers = [signal.getsignal(number) for number in SIGNALS]
        when, places = _seen
        self._looks = time.monotonic() - when >= FRESH
        self._places = _places() if self._looks else places

    def __enter__(self) -> None:
        """Begin; a context manager made of a generator would take ten times as long."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Put the streams back. Raises RuntimeError for one that was closed, and what was refused in a thread."""
        global _seen
        if _is_child:
            _end_child(error)
        sys.stdout, sys.stderr = self._own  # which leave out secrets
        self._handle_again()
        after = _places()
        # What others did with a stream since the last call is no closing, but may look like one that was opened again.
        closed = [number for number, old, new in zip(STREAMS, self._places, after, strict=True)
                  if old and (new is None or (self._looks and old != new))]  # fmt: skip
        for number in closed:
            _open_again(number)
        _seen = time.monotonic(), _places() if closed else after
        refused = _refused.pop() if _refused else None
        _refused.clear()
        if error is not None:
            self._raise_as_known(error)
        elif refused:
            raise refused
        elif closed:
            raise RuntimeError(f"it closed {STREAMS[closed[0]]}")

    def _handle_again(self) -> None:
        """Put the handlers of requests to stop back: a step that ignores them would be killed without saving."""
        for number, handler in zip(SIGNALS, self._handlers, strict=True):
            if signal.getsignal(number) is not handler and handler is not None:
                with suppress(ValueError):  # in a thread
                    signal.signal(number, handler)

    def _raise_as_known(self, error: BaseException) -> None:
        """Raise a RuntimeError in place of what is neither an Exception, nor of this project, nor of an event loop.

        Of this project are a limit of time and a request to stop.
        """
        known = (Exception, SystemExit, *((asyncio.CancelledError, GeneratorExit) if self._in_loop else ()))
        if isinstance(error, known) or type(error).__module__.startswith("steps.") or is_request(error):
            return
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise RuntimeError(said).with_traceback(error.__traceback__) from None


def _refuse(module: Any, name: str, ends: Callable[..., bool]) -> None:
    original = getattr(module, name)

    @functools.wraps(original)
    def call(*given: Any, **named: Any) -> Any:
        if _files and ends(*given, **named) and _is_called_by_user():
            asked = ", ".join([*map(repr, given), *(f"{key}={value!r}" for key, value in named.items())])
            _refused.append(SystemExit(f"{name}({asked}), which would end the step"))
            raise _refused[-1]
        return original(*given, **named)

    setattr(module, name, call)


def _ends_this_process(target: int, number: int) -> bool:
    return target in (0, -1, os.getpid(), os.getpgrp(), -os.getpgrp()) and _ends(number)


def _ends(number: int) -> bool:
    """Return whether a signal ends this process: the user's code may have a handler, but not for requests to stop."""
    if number in PASSED_OVER or number not in signal.valid_signals():
        return False
    return number in SIGNALS or signal.getsignal(number) is signal.SIG_DFL


def _exits_later(*given: Any, exit: bool = False, **_: Any) -> bool:
    return bool(given[3] if len(given) > 3 else exit)


def _is_called_by_user() -> bool:
    """Return whether a file of the user is in the stack, or a thread was given the function itself: none of ours is."""
    frame: FrameType | None = sys._getframe(2)
    only_thread = threading.current_thread() is not threading.main_thread()
    while frame is not None:
        if frame.f_code.co_filename in _files:
            return True
        only_thread = only_thread and frame.f_code.co_filename in BARE
        frame = frame.f_back
    return only_thread


def _places() -> list[Place]:
    return [_place(number) for number in STREAMS]


def _place(number: int) -> Place:
    try:
        found = os.fstat(number)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open_again(number: int) -> None:
    """Give a stream a place again, so that no file that is opened next gets its number, and what is printed."""
    other = os.dup(3 - number) if _place(3 - number) else os.open(os.devnull, os.O_WRONLY)
    if other != number:
        os.dup2(other, number)
        os.close(other)
    name = "stdout" if number == 1 else "stderr"
    if getattr(sys, name) is None or getattr(sys, name).closed:
        setattr(sys, name, os.fdopen(number, "w", buffering=1, closefd=False))


def _end_child(failing: BaseException | None) -> None:
    """End a process that the user's code has forked and that comes back: the step is not its to go on with."""
    if isinstance(failing, Exception):
        sys.excepthook(type(failing), failing, failing.__traceback__)
    _exit(1 if failing else 0)


def _after_fork() -> None:
    global _is_child
    if _files and _is_called_by_user():
        _files.clear()
        _is_child = True


os.register_at_fork(after_in_child=_after_fork)
