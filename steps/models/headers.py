"""Names and shapes of a model's tensors, read from the headers of its weight files before anything is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError
from steps.models.layout import INDEX, ModelLayout, read_json
from steps.models.weights import Stored, length_of_header, tensors_in_header
from steps.sources.model_files import ModelFiles

Shape = tuple[int, ...]
HEADERS_AT_ONCE = 16
TENSORS_SHOWN = 3


def read_shapes(files: ModelFiles, layout: ModelLayout) -> dict[str, Shape | None]:
    """Check the header of every weight file against its size, and the index against the headers.

    Returns the shape of each tensor by name; None where only the index tells the name, because the Hub has not been
    asked for the file. Such files are complete on the Hub. Raises UserError with the problems of all files, and as
    `ModelFiles.read`.
    """
    shards = {name: path for name, path in layout.weights.items() if name.endswith(".safetensors")}
    near = {name: path for name, path in shards.items() if not files.repository or files.local(path)}
    with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
        read = dict(zip(near, pool.map(lambda path: _read(files, path), near.values()), strict=True))
    problems = [found for found in read.values() if isinstance(found, Problem)]
    if problems:
        raise UserError(problems)
    tensors = {name: found for name, found in read.items() if isinstance(found, dict)}
    shapes: dict[str, Shape | None] = {key: one.shape for found in tensors.values() for key, one in found.items()}
    if INDEX not in layout.weights:
        return shapes
    where = f"{files.parameter}: {INDEX}"
    listed = read_json(files.parameter, files.read, layout.weights[INDEX])["weight_map"]
    if missing := [key for key, shard in listed.items() if shard in tensors and key not in tensors[shard]]:
        raise UserError(_without_tensors(where, missing, listed))
    return {**dict.fromkeys(listed), **shapes}


def read_distant(files: ModelFiles, layout: ModelLayout) -> dict[str, Shape | None]:
    """Return the same for a model of a single file on the Hub, by reading its header there. Raises as `read_shapes`."""
    path = layout.weights.get("model.safetensors", "")
    found = _read(files, path) if path else {}
    if isinstance(found, Problem):
        raise UserError(found)
    return {name: tensor.shape for name, tensor in found.items()}


def _read(files: ModelFiles, path: str) -> dict[str, Stored] | Problem:
    size = files.names[path]
    try:
        length = length_of_header(files.read_start(path, 8), size)
        return tensors_in_header(Path(path), files.read_start(path, 8 + length), size)
    except ValueError as error:
        return Problem("MODEL-E0111", f"{files.parameter}: {path}", str(error), "a complete safetensors file",
                       "upload the file again")  # fmt: skip


def _without_tensors(where: str, missing: list[str], listed: Mapping[str, Any]) -> Problem:
    names = ", ".join(missing[:TENSORS_SHOWN]) + (" …" if len(missing) > TENSORS_SHOWN else "")
    return Problem("MODEL-E0115", where, f"{names} in {listed[missing[0]]}, which does not hold it",
                   "an index that belongs to its files", "upload index and files of one save, or save the model again",
                   count=len(missing))  # fmt: skip
