"""Compare stored tensors block by block, so that memory use does not depend on their size; without torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from steps.models.weights import FLOATS, Stored

BLOCK = 8 * 1024 * 1024  # bytes that are compared at a time

Floats = NDArray[np.float32]


def same_values(copy: Stored, original: Stored, rows: Sequence[int] | None = None) -> bool:
    """Return whether `copy` has the values of `original`, or of its `rows`, rounded to the type of the copy.

    PEFT holds trainable weights in float32 and saves them in float32, even for a 16-bit base: an untrained copy has
    the same values in another type.
    """
    if copy.dtype not in FLOATS or original.dtype not in FLOATS or copy.shape[1:] != original.shape[1:]:
        return False
    if rows is not None:
        fits = len(rows) == copy.rows and all(0 <= row < original.rows for row in rows)
        return fits and all(
            _equal(copy, original, place, row, 1) for place, row in enumerate(rows)
        )  # fmt: skip
    if copy.rows != original.rows:
        return False
    count = max(1, BLOCK // max(1, original.row_size * FLOATS[original.dtype]))
    return all(
        _equal(copy, original, start, start, min(count, copy.rows - start)) for start in range(0, copy.rows, count)
    )


def is_zero(stored: Stored) -> bool:
    """Return whether all values of a tensor of a float type are zero."""
    count = max(1, BLOCK // max(1, stored.row_size * FLOATS[stored.dtype]))
    return not any(
        read_floats(stored, start, min(count, stored.rows - start)).any() for start in range(0, stored.rows, count)
    )


def read_floats(stored: Stored, start: int, count: int) -> Floats:
    """Read `count` rows from row `start` as float32, which represents every value of the other types exactly."""
    size = stored.row_size * FLOATS[stored.dtype]
    raw = np.fromfile(stored.file, dtype=np.uint8, count=count * size, offset=stored.start + start * size)
    if len(raw) != count * size:
        raise OSError(f"{stored.file} was truncated while it was read")
    if stored.dtype == "F32":
        return raw.view(np.float32)
    if stored.dtype == "F16":
        return raw.view(np.float16).astype(np.float32)
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def rounded(values: Floats, dtype: str) -> Floats:
    """Round to the nearest value of a type, ties to even, as torch does."""
    if dtype == "F32":
        return values
    if dtype == "F16":
        return values.astype(np.float16).astype(np.float32)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def _equal(copy: Stored, original: Stored, start: int, row: int, count: int) -> bool:
    wanted = rounded(read_floats(original, row, count), copy.dtype)
    return np.array_equal(read_floats(copy, start, count), wanted)
