"""Byte ranges of the tensors in safetensors files; reads only headers, without torch."""

from __future__ import annotations

import json
import math
import operator
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Bytes of one element; tensors of other types are copied unchanged.
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}
LARGEST_HEADER = 100 * 1024 * 1024  # the limit in safetensors itself


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: bytes `start` to `end`, in row-major order."""

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
        """Number of elements in one row."""
        return math.prod(self.shape[1:])


def stored_tensors(file: Path) -> dict[str, Stored]:
    """List the tensors of a safetensors file by name, in file order.

    Raises ValueError with what was found when the file is truncated or not a safetensors file.
    """
    size = file.stat().st_size
    with open(file, "rb") as stream:
        start = stream.read(8)
        return tensors_in_header(file, start + stream.read(length_of_header(start, size)), size)


def length_of_header(start: bytes, size: int) -> int:
    """Return the length of a header in bytes, from the first 8 bytes of a file of `size` bytes.

    Raises ValueError when these are not the start of a safetensors file.
    """
    if not size:
        raise ValueError("an empty file")
    length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
    if not 2 <= length <= min(size - 8, LARGEST_HEADER):
        raise ValueError(f"{size} bytes that are not a safetensors file")
    return length


def tensors_in_header(file: Path, start: bytes, size: int) -> dict[str, Stored]:
    """List the tensors by the first bytes of a file, which hold its header; `size` is that of the whole file.

    Raises as `stored_tensors`.
    """
    length = length_of_header(start, size)
    try:
        header = json.loads(start[8 : 8 + length])
        header.pop("__metadata__", None)
        found = [_stored(file, name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, RecursionError):
        raise ValueError("a header that is not JSON") from None
    except (AttributeError, KeyError, TypeError):
        raise ValueError("a header that does not describe tensors") from None
    found.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_spans(found, 8 + length, size)
    return {tensor.name: tensor for tensor in found}


def _stored(file: Path, name: str, entry: dict[str, Any], data: int) -> Stored:
    begin, end = map(operator.index, entry["data_offsets"])
    return Stored(file, name, entry["dtype"], tuple(map(operator.index, entry["shape"])), data + begin, data + end)


def find(tensors: dict[str, Stored], name: str) -> Stored | None:
    """Look up a tensor by its name in the model, or without the prefix: GPT-2's files have h.0, not transformer.h.0."""
    return tensors.get(name) or tensors.get(name.partition(".")[2])


def header_of(tensors: list[tuple[str, Stored]]) -> bytes:
    """Return the header of a safetensors file that holds these tensors in this order."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in tensors:
        end = position + tensor.end - tensor.start
        described[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # align the data for every type
    return len(text).to_bytes(8, "little") + text


def _check_spans(tensors: list[Stored], data: int, size: int) -> None:
    """Check that the tensors fill the file without gaps and that each has the length of its shape."""
    position = data
    for tensor in tensors:
        length = tensor.rows * tensor.row_size * FLOATS.get(tensor.dtype, 0)
        if tensor.start != position or (length and tensor.end - tensor.start != length):
            raise ValueError(f"tensor {tensor.name} at a wrong offset")
        position = tensor.end
    if position != size:
        raise ValueError(f"{size} bytes, while the header declares {position}")
