"""Requests to stop: SIGTERM and Ctrl-C, wherever they arrive, also where what they raise is lost.

A request raises Stopped in the main thread. Python drops what is raised in a destructor, and some libraries catch every
exception, so a thread watches whether the exception is still on its way, and has it raised again until it `is_seen`.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any

STOPPING = "FINETUNE_STOPPING"  # set by the local runner after a request to stop: no further step starts
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which further signals are the same request: Ctrl-C reaches every process of a terminal, and is passed on.
TOGETHER = 1.0
LOOK = 0.02  # seconds between two looks for an exception that was dropped
CAUGHT = 2.0  # seconds after which an exception that nobody handles any more, but somebody keeps, counts as lost
LINGERING = 10.0  # seconds for threads that do not end with a step that was stopped
ENDING = 60.0  # seconds for those that do not end with a step that has done its work
_exit = os._exit  # itself: while a function of a user is called, os has another one (sources/user_ends.py)


class Stopped(KeyboardInterrupt):
    """A request to stop arrived. A KeyboardInterrupt, because asyncio and others catch every other exception."""

    def __init__(self, number: int = signal.SIGTERM):
        super().__init__()
        self.number = number


_number = 0  # of the first signal
_when = 0.0
_seen = False  # the request has arrived where the exit code is decided
_again = False  # the exception was lost: the next signal is the watching thread's
_raised: Callable[[], Stopped | None] = type(None)


def stop_when_asked() -> None:
    """On SIGTERM and Ctrl-C, leave as after an error: drafts and temporary files are deleted.

    A further signal ends this process and those that it started at once, unless it comes within a second. Raises
    Stopped if the run that this process belongs to was stopped before.
    """
    if STOPPING in os.environ:
        _set_hooks()
        raise Stopped
    _handle(_leave)


def finish() -> None:
    """Let a process whose step has finished end with 0: its result is whole, and Python takes a second to end.

    The system itself ignores the signals only at the very end: processes that are started would inherit that.
    """
    is_seen()
    if _handle(_pass_over, (_leave, _pass_over)):
        atexit.unregister(_handle)
        atexit.register(_handle, signal.SIG_IGN)


@contextmanager
def passing_over() -> Iterator[None]:
    """Pass over requests to stop in a block that deletes what its step would go on from, and after it if it succeeds.

    Raises Stopped if a request arrived before.
    """
    global _seen
    refuse_after_stop()
    finish()
    try:
        yield
    except BaseException:
        if _handle(_leave, (_pass_over,)):
            _seen = False
        raise


def asked_by() -> int:
    """Return the number of the signal that asked this process to stop; 0 without one."""
    return _number


def was_asked_to_stop() -> bool:
    """Return whether a request arrived; what it raised may have been lost, in a destructor or in an import."""
    return bool(_number)


def refuse_after_stop() -> None:
    """Raise Stopped if a request arrived and what it raised was lost, such as in a destructor."""
    if _number:
        raise Stopped(_number)


def is_seen() -> None:
    """Tell that the request has arrived where it is answered, so that it is not raised again."""
    global _seen
    _seen = True


def is_request(error: BaseException) -> bool:
    """Return whether an exception is a request to stop: a KeyboardInterrupt that user code raises itself is none."""
    ours = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    return isinstance(error, Stopped) or (isinstance(error, KeyboardInterrupt) and not ours)


def end_children() -> None:
    """Kill the processes that this one has started and that still run, but none that is meant to outlive it."""
    import psutil

    session = os.getsid(0)
    children = [one for one in psutil.Process().children(recursive=True) if _session_of(one.pid) == session]
    for child in children:
        with suppress(psutil.Error):
            child.kill()
    psutil.wait_procs(children, LINGERING)


def _session_of(process: int) -> int:
    try:
        return os.getsid(process)
    except ProcessLookupError:
        return 0


def end_soon(code: int, seconds: float = 0.0) -> None:
    """End this process with a code after LINGERING, or so many seconds, whatever its threads do: some do not end."""
    last = threading.Timer(seconds or LINGERING, _exit, [code])
    last.daemon = True
    last.start()


@contextmanager
def ending() -> Iterator[None]:
    """Let a program that has done its work end with its code also where a thread, such as a user's, does not end."""
    code = 70
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        end_soon(code, ENDING)


def _handle(handler: Any, ours: tuple[Any, ...] = ()) -> bool:
    """Set the handler of the signals, unless there is one of somebody else; return whether one was set."""
    if threading.current_thread() is not threading.main_thread():
        return False
    known = ours or (signal.SIG_DFL, signal.default_int_handler, _leave, _pass_over)
    mine = [number for number in SIGNALS if signal.getsignal(number) in known]
    for number in mine:
        signal.signal(number, handler)
    return bool(mine)


def _leave(number: int, _frame: Any) -> None:
    global _number, _when, _again
    if not _number:
        _number, _when = number, time.monotonic()
        _set_hooks()
        _thread.start_new_thread(_watch, ())
    elif _again:
        _again = False
    elif time.monotonic() - _when > TOGETHER:
        _end_at_once(number)
    else:
        return
    raise _made()


def _made() -> Stopped:
    global _raised
    made = Stopped(_number)
    _raised = weakref.ref(made)
    return made


def _pass_over(_number: int, _frame: Any) -> None:
    """Do nothing: the step has finished."""


def _end_at_once(number: int) -> None:
    with suppress(OSError):
        os.write(2, b"stopped at once: what was not finished is left out, and a re-run goes on\n")
    with suppress(Exception):
        end_children()
    _exit(128 + number)


def _watch() -> None:
    """Have the exception raised again whenever it was lost, until the request is seen."""
    global _again
    kept = 0.0
    while not _seen:
        time.sleep(LOOK)
        if _again:  # the main thread has not come to it yet
            continue
        kept = kept + LOOK if _raised() and not _is_handled() else 0.0
        if not _seen and (not _raised() or kept > CAUGHT):
            _again, kept = True, 0.0
            signal.pthread_kill(threading.main_thread().ident or 0, _number)


def _is_handled() -> bool:
    """Return whether the main thread is within a `finally` or `except` that the exception has led to."""
    found = sys._current_exceptions().get(threading.main_thread().ident or 0)
    error: BaseException | None = found[1] if isinstance(found, tuple) else found
    known: set[int] = set()
    while error is not None and id(error) not in known:
        if isinstance(error, Stopped):
            return True
        known.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _set_hooks() -> None:
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _uncaught
    sys.unraisablehook = partial(_unraisable, sys.unraisablehook)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Report a request that arrived outside of a step, such as while its libraries are loaded."""
    if not isinstance(error, Stopped):
        sys.__excepthook__(kind, error, trace)
        return
    is_seen()
    from steps.outcome import failure, leave

    leave(failure(error, "start").as_json("start"))


def _unraisable(before: Callable[[Any], object], told: Any) -> None:
    """Do not print a request that was raised in a destructor: it is raised again."""
    if not isinstance(told.exc_value, Stopped):
        before(told)


def _be_child() -> None:
    """Let a forked process end by the signals: its parent decides what becomes of the step."""
    if signal.getsignal(signal.SIGTERM) in (_leave, _pass_over):
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_be_child)
