"""Calls of the user's functions that end: after a time limit they are interrupted."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


class TimeLimit(BaseException):
    """A call took too long. No Exception, so that `except Exception` in the user's function does not catch it."""


def call_within(seconds: float, call: Callable[[], Any]) -> Any:
    """Return what a call returns. Raises TimeLimit after `seconds` on the clock, and what the call raises.

    In the main thread the call is interrupted, even where it waits or catches everything. In another thread, or where
    an event loop runs, the call goes on in a daemon thread, which the end of the process ends.
    """
    if threading.current_thread() is threading.main_thread() and not _in_loop():
        return _by_signal(seconds, call)
    return _by_thread(seconds, call)


def awaited(call: Callable[[], Any], runner: asyncio.Runner | None = None) -> Callable[[], Any]:
    """Make an ordinary call of an asynchronous one, in the event loop of `runner` or one of its own."""

    async def run() -> Any:
        return await call()

    return lambda: runner.run(run()) if runner else asyncio.run(run())


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _by_signal(seconds: float, call: Callable[[], Any]) -> Any:
    own, tracing = sys._getframe(), sys.gettrace()
    times = 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal times
        times += 1
        if times > 2:  # caught twice, by `except BaseException`: raise once more inside of that
            sys.settrace(_raise_at_line)
            while frame is not None and frame is not own:
                frame.f_trace = _raise_at_line
                frame = frame.f_back
        raise TimeLimit

    before = signal.signal(signal.SIGALRM, stop)
    started = time.monotonic()
    # Again and again, for functions that catch everything in a loop.
    others_left, others_every = signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if times > 2:
            sys.settrace(tracing)
        if others_left:  # a timer that somebody else had set goes on
            left = max(0.001, others_left - (time.monotonic() - started))
            signal.setitimer(signal.ITIMER_REAL, left, others_every)


def _raise_at_line(frame: FrameType, event: str, argument: Any) -> Any:
    """Raise at the next line of a traced frame; Python then ends the tracing."""
    if event == "line":
        raise TimeLimit
    return _raise_at_line


def _by_thread(seconds: float, call: Callable[[], Any]) -> Any:
    results: list[Any] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:  # raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeLimit
    return results[0]
