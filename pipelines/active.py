"""Locks that tell which local runs are active. The system releases them when a process ends, also if it was killed."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT_LOCK = ".runs.lock"


@contextlib.contextmanager
def active(root: Path, log_file: IO[str]) -> Iterator[None]:
    """Mark a run as active: its log file is locked, and the lock of the root is shared with other runs.

    Waits while `alone` holds the root.
    """
    with open(root / ROOT_LOCK, "a") as shared:
        fcntl.flock(shared, fcntl.LOCK_SH)
        fcntl.flock(log_file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone(root: Path) -> Iterator[bool]:
    """Yield whether no run is active; if so, none starts within the block."""
    with open(root / ROOT_LOCK, "a") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_active(log_file: Path) -> bool:
    """Return whether the run that writes this log file is active."""
    try:
        with open(log_file) as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
