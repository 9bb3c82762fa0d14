"""Where each tensor lies inside a safetensors file; reads headers only, and loads no torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes of one element; tensors of other types are copied and never changed.
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}
LARGEST_HEADER = 100 * 1024 * 1024  # safetensors' own bound


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: bytes `start` to `end`, rows one after the other."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def rows(self) -> int:
        """Length of the first dimension."""
        return self.shape[0] if self.shape else 1

    @property
    def row_size(self) -> int:
        """Elements in one row."""
        return math.prod(self.shape[1:])


def stored_tensors(file: Path) -> dict[str, Stored]:
    """List the tensors of a safetensors file by name, in file order.

    Raises ValueError with what was found when the file is cut or is no safetensors.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{size} bytes that are no safetensors")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise ValueError("a header that is no JSON") from None
    header.pop("__metadata__", None)
    data = 8 + length
    found = [
        Stored(file, name, entry["dtype"], tuple(entry["shape"]), *(data + offset for offset in entry["data_offsets"]))
        for name, entry in header.items()
    ]
    found.sort(key=lambda tensor: tensor.start)
    _check_spans(found, data, size)
    return {tensor.name: tensor for tensor in found}


def find(tensors: dict[str, Stored], name: str) -> Stored | None:
    """Look a name up as the model says it, or without its prefix: GPT-2's files say h.0, not transformer.h.0."""
    return tensors.get(name) or tensors.get(name.partition(".")[2])


def header_of(tensors: list[tuple[str, Stored]]) -> bytes:
    """Write the header of a safetensors file that holds these tensors, one behind the other."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors:
        end = position + tensor.end - tensor.start
        described[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins where every type may
    return len(text).to_bytes(8, "little") + text


def _check_spans(tensors: list[Stored], data: int, size: int) -> None:
    """Tensors must fill the file without holes, each as long as its shape says."""
    position = data
    for tensor in tensors:
        length = tensor.rows * tensor.row_size * FLOATS.get(tensor.dtype, 0)
        if tensor.start != position or (length and tensor.end - tensor.start != length):
            raise ValueError(f"tensor {tensor.name} at the wrong place")
        position = tensor.end
    if position != size:
        raise ValueError(f"{size} bytes where the header promises {position}")
