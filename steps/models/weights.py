"""Byte ranges of the tensors in safetensors files; reads only headers, without torch."""

from __future__ import annotations

import json
import math
import operator
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.params.text_file import read_json

# Bytes of one element; tensors of other types are copied unchanged.
FLOATS = {"BF16": 2, "F16": 2, "F32": 4}
MOST = 2**63  # of a length: safetensors has them in 64 bits
# Bytes of one element of the other types; of those that are not here, the length is not checked.
OTHERS = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4,
    "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
LARGEST_HEADER = 16 * 1024 * 1024  # of a hundred thousand tensors; the library itself allows 100 MB


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
    if not 2 <= length <= size - 8:
        raise ValueError(f"{size} bytes that are not a safetensors file")
    if length > LARGEST_HEADER:
        raise ValueError(f"a header of {length:,} bytes, which is more than {LARGEST_HEADER:,}")
    return length


def tensors_in_header(file: Path, start: bytes, size: int) -> dict[str, Stored]:
    """List the tensors by the first bytes of a file, which hold its header; `size` is that of the whole file.

    Raises as `stored_tensors`.
    """
    length = length_of_header(start, size)
    try:
        header = read_json(start[8 : 8 + length].decode())  # as bytes, json takes more than UTF-8
        metadata = header.pop("__metadata__", None)
        if metadata is not None and not all(isinstance(told, str) for told in metadata.values()):
            raise TypeError("__metadata__")
        for text in (*header, *(metadata or {}), *(metadata or {}).values()):
            text.encode()  # half of a pair of surrogates is no text
        found = [_stored(file, name, entry, 8 + length) for name, entry in header.items()]
    except ValueError:
        raise ValueError("a header that is not JSON") from None
    except (AttributeError, KeyError, TypeError, OverflowError):
        raise ValueError("a header that does not describe tensors") from None
    found.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_spans(found, 8 + length, size)
    return {tensor.name: tensor for tensor in found}


def _stored(file: Path, name: str, entry: dict[str, Any], data: int) -> Stored:
    begin, end = map(operator.index, entry["data_offsets"])
    shape, dtype = tuple(map(operator.index, entry["shape"])), entry["dtype"]
    if not isinstance(dtype, str) or not all(0 <= length <= MOST for length in (begin, end, *shape)):
        raise TypeError(name)
    return Stored(file, name, dtype, shape, data + begin, data + end)


def find(tensors: dict[str, Stored], name: str) -> Stored | None:
    """Look up a tensor by its name in the model, or in the files of models whose names differ there.

    GPT-2's files have h.0, not transformer.h.0; those of Qwen2-VL have model.layers.0 and visual.blocks.0, not
    model.language_model.layers.0 and model.visual.blocks.0.
    """
    without = tensors.get(name.partition(".")[2])
    return tensors.get(name) or without or tensors.get(name.replace("model.language_model.", "model.", 1))


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
        width = FLOATS.get(tensor.dtype) or OTHERS.get(tensor.dtype)
        wrong = width is not None and tensor.end - tensor.start != tensor.rows * tensor.row_size * width
        if tensor.start != position or tensor.end < tensor.start or wrong:
            raise ValueError(f"tensor {tensor.name} at a wrong offset")
        position = tensor.end
    if position != size:
        raise ValueError(f"{size} bytes, while the header declares {position}")
