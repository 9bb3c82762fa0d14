"""The outline of a model or an adapter: its small files, and the headers of its weights.

A weight file has its true size but no content after the header, so that code that reads names and shapes works on it,
and a model in object storage is checked by reading a few kilobytes. Local files are linked instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from steps.errors import Problem
from steps.models.weights import LARGEST_HEADER
from steps.sources.model_files import ModelFiles

SMALL = 64 * 1024 * 1024  # bytes; tokenizers and configurations are smaller


def write_outline(files: ModelFiles, names: Mapping[str, str], folder: Path) -> bool:
    """Write the outline of some files, name → path inside the source, into `folder`.

    Returns whether every file is linked, and so complete. Raises as `ModelFiles.read`.
    """
    folder.mkdir(parents=True)
    whole = True
    for name, path in names.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if here := files.local(path):
            place.symlink_to(here.absolute())
            continue
        whole = False
        size = files.names[path]
        place.write_bytes(_start(files, path, size))
        os.truncate(place, size)  # a sparse file: the extension takes no disk space
    return whole


def in_their_words(problem: Problem, folders: Mapping[str, Path]) -> Problem:
    """Replace the folders of outlines in a problem by their sources; `folders` maps URI → outline."""
    told = {field: getattr(problem, field) for field in ("where", "found", "expected", "fix", "why")}
    for uri, folder in folders.items():
        told = {field: text.replace(str(folder), uri.rstrip("/")) for field, text in told.items()}
    return replace(problem, **told)


def _start(files: ModelFiles, path: str, size: int) -> bytes:
    if path.endswith(".safetensors"):
        length = int.from_bytes(files.read_start(path, 8), "little")
        return files.read_start(path, 8 + min(length, LARGEST_HEADER, size))
    return files.read(path) if size <= SMALL else b""
