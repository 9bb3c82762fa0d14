"""A sign of life from the process that follows a training to the processes that train.

The one renews it, the others see whether its content changed, by their own clock: the machines' clocks may differ.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

EVERY = 30.0  # seconds between renewals
STALE_AFTER = 600.0  # seconds


class Lease:
    """A small file, or an object in a store, with a text that changes with every renewal.

    The training calls `is_stale` now and then, at least once in `stale_after`, and from one process. Where the place
    cannot be read, nothing is known of the other side: that is no sign of its end.
    """

    def __init__(self, place: str, stale_after: float = STALE_AFTER, clock: Callable[[], float] = time.monotonic):
        self.place = place
        self._stale_after = stale_after
        self._clock = clock
        self._seen: str | None = None
        self._changed = clock()

    def renew(self) -> None:
        """Write a new text. Raises what the file system or the store's client raises."""
        filesystem, path = _opened(self.place)
        if _is_local(filesystem):
            filesystem.makedirs(filesystem._parent(path), exist_ok=True)
        filesystem.pipe_file(path, uuid.uuid4().hex.encode())

    def is_stale(self) -> bool:
        """Return whether the text has been the same, or has not been there, for `stale_after` seconds."""
        try:
            filesystem, path = _opened(self.place)
            filesystem.invalidate_cache(path)
            found = filesystem.cat_file(path).decode("utf-8", "replace")
        except FileNotFoundError:
            found = None
        except Exception:  # no answer from the store, or a volume that hangs
            self._changed = self._clock()
            return False
        if found is not None and found != self._seen:
            self._seen, self._changed = found, self._clock()
        return self._clock() - self._changed >= self._stale_after


def _opened(place: str) -> tuple[Any, str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(place)
    return filesystem, path


def _is_local(filesystem: Any) -> bool:
    return "file" in filesystem.protocol
