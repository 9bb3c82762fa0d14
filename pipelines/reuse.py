"""The results of earlier local runs that a run reuses: each one is as it was written, or its task runs again.

kfp's own cache takes whatever is at the path of an artifact, and any JSON for the outputs of a task.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.params.checked_json import sealed, unsealed
from steps.running import MANIFEST, is_whole, sha256_of, write_durably

log = logging.getLogger("finetune")


@contextlib.contextmanager
def checked_reuse() -> Iterator[None]:
    """Let kfp's local runner reuse only what is unchanged, until the block ends."""
    from kfp.local import cache

    class CheckedCache(cache.LocalCache):
        def get(self, key: str) -> dict[str, Any] | None:
            entry = Path(self._entry_path(key))
            if not entry.is_file():
                return None
            try:
                return self._deserialize_outputs(outputs_in(entry))
            except ValueError as error:
                log.warning("WARNING a result of an earlier run is not reused: %s", error)
            except Exception as error:  # what was pruned is gone; and kfp's own
                log.debug("a result of an earlier run is not reused: %s", error)
            return None

        def put(self, key: str, outputs: dict[str, Any]) -> None:
            store(Path(self._entry_path(key)), self._serialize_outputs(outputs))

    before = cache.LocalCache
    cache.LocalCache = CheckedCache
    cache.reset_local_cache_singleton()
    try:
        yield
    finally:
        cache.LocalCache = before
        cache.reset_local_cache_singleton()


def store(entry: Path, outputs: dict[str, Any]) -> None:
    """Write an entry: the outputs of a task in kfp's form, and the sha256 of each that is a single file."""
    files = {place: sha256_of(Path(place)) for place in _places(outputs) if Path(place).is_file()}
    write_durably(entry, sealed({"outputs": outputs, "files": files}))


def outputs_in(entry: Path) -> dict[str, Any]:
    """Return the outputs in an entry. Raises ValueError if it or an artifact was changed, OSError if one is gone."""
    told = unsealed(entry.read_bytes())
    for place in _places(told["outputs"]):
        if not os.path.lexists(place):
            raise FileNotFoundError(f"{place} is gone")
        written = told["files"].get(place)
        if (sha256_of(Path(place)) != written) if written else not _is_whole_folder(Path(place)):
            raise ValueError(f"{place} was changed")
    return dict(told["outputs"])


def _is_whole_folder(folder: Path) -> bool:
    """Return whether a folder is a whole artifact, or holds such folders, as those that trials of a sweep share."""
    if is_whole(folder):
        return True
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    return not (folder / MANIFEST).exists() and bool(inside) and all(map(is_whole, inside))


def _places(value: Any) -> Iterator[str]:
    """Give the paths of the artifacts in what kfp serialised; those in a store are not on this machine."""
    if isinstance(value, dict):
        uri = value.get("uri")
        if value.get("__kfp_artifact__") and isinstance(uri, str) and uri and "://" not in uri:
            yield uri
        for one in value.values():
            yield from _places(one)
    elif isinstance(value, list):
        for one in value:
            yield from _places(one)
