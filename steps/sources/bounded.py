"""Calls to services that come to an end, also where nobody answers or a byte arrives now and then.

The clients of stores, of the Hub and of MLflow try again by themselves, which is right for a short outage. But some try
for a quarter of an hour, and none has a limit for an answer that goes on arriving. So each call is made in a thread,
which is left behind when its time is over; it does not keep the process.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar, cast

T = TypeVar("T")

LONGEST = 75.0  # seconds for a call with a short answer; the clients' own tries take 40 where a store answers 503
SILENCE = 60.0  # seconds in which a transfer has to move LEAST bytes
LEAST = 64 * 1024
SLOWEST = 256 * 1024  # bytes per second of an upload, of which nobody tells how far it is
WAITS = (1.0, 4.0)  # seconds before the second and the third try, for clients that try once
SOON = 20.0  # seconds; botocore waits for up to 15 before its last try, and s3fs does not repeat what it gives up
LOOKS = 20  # at a transfer within SILENCE


class NoAnswer(ConnectionError):
    """A service that did not answer in time."""


def ended(call: Callable[[], T], seconds: float | None = None) -> T:
    """Return what a call returns, or raise what it raises; raises NoAnswer if it takes longer than LONGEST seconds."""
    limit = LONGEST if seconds is None else seconds
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    _start(call, results)
    try:
        return _result(results.get(timeout=limit))
    except queue.Empty:
        raise NoAnswer(f"no answer within {limit:g} s") from None


def moving(call: Callable[[], T], moved: Callable[[], int]) -> T:
    """Return what a transfer returns; raises NoAnswer if it moves too few bytes in SILENCE seconds.

    `moved` returns the bytes so far.
    """
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()
    _start(call, results)
    watch = Watch(moved)
    while True:
        try:
            return _result(results.get(timeout=SILENCE / LOOKS))
        except queue.Empty:
            watch.look()


class Watch:
    """Notices that a transfer has stopped, or nearly so."""

    def __init__(self, moved: Callable[[], int]):
        self._moved = moved
        self._since, self._bytes = time.monotonic(), moved()

    def look(self) -> None:
        """Raise NoAnswer if fewer than LEAST bytes were moved in the last SILENCE seconds."""
        now, found = time.monotonic(), self._moved()
        if abs(found - self._bytes) >= LEAST:
            self._since, self._bytes = now, found
        elif now - self._since > SILENCE:
            raise NoAnswer(f"fewer than {LEAST:,} bytes arrived within {SILENCE:g} s")


def all_of(calls: Iterable[Callable[[], None]], at_once: int, moved: Callable[[], int]) -> None:
    """Make calls that transfer, several at a time; raises the first error, or NoAnswer as `moving`.

    No further call begins after that.
    """
    waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    for call in calls:
        waiting.put(call)
    count = waiting.qsize()
    results: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
    failed = threading.Event()

    def work() -> None:
        while not failed.is_set():
            try:
                call = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                call()
                results.put(None)
            except BaseException as error:
                failed.set()
                results.put(error)

    for _ in range(min(at_once, count)):
        threading.Thread(target=work, name="transfers", daemon=True).start()
    try:
        _gather(results, count, Watch(moved))
    finally:
        failed.set()


def _gather(results: queue.SimpleQueue[BaseException | None], count: int, watch: Watch) -> None:
    while count:
        try:
            error = results.get(timeout=SILENCE / LOOKS)
        except queue.Empty:
            watch.look()
            continue
        if error is not None:
            raise error
        count -= 1


def again(call: Callable[[], T], passes: Callable[[Exception], bool]) -> T:
    """Return what a call returns; one that fails soon is repeated after each of WAITS if its error `passes`."""
    for seconds in WAITS:
        began = time.monotonic()
        try:
            return call()
        except NoAnswer:
            raise
        except Exception as error:
            if time.monotonic() - began > SOON or not passes(error):
                raise
        time.sleep(seconds)
    return call()


class Bounded:
    """A client whose calls are `ended`; those named `apart` have limits of their own."""

    def __init__(self, client: Any, apart: Collection[str] = ()):
        self._client = client
        self._apart = frozenset(apart)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name in self._apart or name.startswith("_") or not callable(found):
            return found
        return lambda *given, **named: ended(lambda: found(*given, **named))


def upload_seconds(size: int) -> float:
    """Return the limit for an upload of so many bytes."""
    return LONGEST + size / SLOWEST


def _start(call: Callable[[], T], results: queue.SimpleQueue[tuple[T | None, BaseException | None]]) -> None:
    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=run, name="service", daemon=True).start()


def _result(told: tuple[T | None, BaseException | None]) -> T:
    result, error = told
    if error is not None:
        raise error
    return cast(T, result)
