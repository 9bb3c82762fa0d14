"""The outline of a model or an adapter: all its small files, and of its weights the headers only.

A file of weights has its true size and nothing behind the header, so that whatever reads names and shapes works on it,
and a model in object storage is judged for the price of a few kilobytes. Local files are linked instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from steps.storage import local_path, read_bytes

SMALL = 64 * 1024 * 1024  # bytes; tokenizers and configurations are smaller
LARGEST_HEADER = 100 * 1024 * 1024  # safetensors' own bound


def write_outline(parameter: str, files: Mapping[str, tuple[str, int]], folder: Path) -> bool:
    """Write the outline of files, name → (path or URI, bytes), into `folder`; say whether it is the files themselves.

    Raises as `storage.read_bytes`.
    """
    folder.mkdir(parents=True)
    whole = True
    for name, (place, size) in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if local := local_path(place):
            file.symlink_to(local.absolute())
            continue
        whole = False
        file.write_bytes(_start(parameter, place, size, name.endswith(".safetensors")))
        with open(file, "r+b") as stream:
            stream.truncate(size)
    return whole


def _start(parameter: str, place: str, size: int, has_header: bool) -> bytes:
    if has_header:
        length = int.from_bytes(read_bytes(parameter, place, 8), "little")
        return read_bytes(parameter, place, 8 + min(length, LARGEST_HEADER, size))
    return read_bytes(parameter, place) if size <= SMALL else b""
