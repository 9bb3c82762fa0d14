"""Waiting for what another thread or process does, however busy the machine is, and clocks of a test's own."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

# Far beyond what anything takes in a test, so that only what never happens is too late.
LONG = 180.0  # seconds


def wait_for(condition: Callable[[], object], seconds: float = LONG) -> None:
    """Return when `condition` holds; raises AssertionError if it does not within `seconds`."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def time_with(**functions: Any) -> SimpleNamespace:
    """The module time with other functions, for one module under test.

    A change of the module itself would be one for every thread of this process: one that another test left would add
    its own waits to those that are counted.
    """
    return SimpleNamespace(**{**vars(time), **functions})
