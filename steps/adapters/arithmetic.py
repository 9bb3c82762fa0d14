"""The arithmetic of LoRA and DoRA: PEFT 0.21.2's operations in its order, so that results are equal bit for bit.

PEFT holds adapters in float32 (autocast_adapter_dtype) and computes, for W of any float type:

    LoRA        W += scaling · (B @ A)             in float32, rounded once to W's type   (lora/layer.py, Linear)
    embedding   W += round((B @ A).T · scaling)    rounded before and after the addition  (lora/layer.py, Embedding)
    new tokens  rows of W = those of the adapter  rounded once                            (trainable_tokens/layer.py)
    DoRA        W = m / ‖W + Δ‖ · (W + Δ)          norms of the rows in float32           (lora/variants.py)

These are the rules of `merge_and_unload()`. With safe_merge=True PEFT also rounds LoRA's Δ before adding it, which
loses precision, and checks for NaN; this module always checks for NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from steps.adapters.arithmetic_of_kinds import does_nothing, factors_of, put_added, put_scaled, whole_change
from steps.adapters.kinds import Combined, Scaling
from steps.adapters.low_rank import LowRank
from steps.adapters.planning import Change
from steps.errors import NumericError, Problem
from steps.models.hashed_file import BLOCK, HashedFile, read_into
from steps.models.weights import FLOATS, Stored

STRETCH = 128 * 1024  # elements that are changed at a time; they fit into the processor's cache
TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

# Changes the base's rows `start` to `stop`, which are in the tensor, to the merged rows, in place.
Apply = Callable[[int, int, torch.Tensor], None]


class Merger:
    """Computes changed tensors, with one float32 matrix as workspace."""

    def __init__(self, work_size: int):
        self.work = torch.empty(work_size, dtype=torch.float32)
        self.changed: set[str] = set()
        """Names of the tensors that differ from the base's."""

    def merge(self, change: Change, out: HashedFile) -> None:
        """Append a changed tensor to `out`. Raises NumericError if a value is not finite."""
        target, low = change.target, change.low_rank
        update = self._update(low) if low else None
        if low and low.magnitude and update is not None:
            apply = partial(_put_rows, _dora(change, low, update))
        elif change.other:
            apply = partial(_put_other, change, _of_other_kind(change.other))
        else:
            apply = partial(_put_sum, change, update)
        size = target.row_size * FLOATS[target.dtype]
        rows = max(1, BLOCK // max(1, size))
        # More threads would not be faster, because writing and hashing take longer than the arithmetic.
        with _one_thread():
            for start in range(0, target.rows, rows):
                stop = min(start + rows, target.rows)
                out.fill((stop - start) * size, partial(self._block, change, apply, start, stop))

    def _block(self, change: Change, apply: Apply, start: int, stop: int, view: memoryview) -> None:
        """Fill `view` with merged rows."""
        target = change.target
        read_into(target.file, target.start + start * (len(view) // (stop - start)), view)
        before = None if target.name in self.changed else bytes(view)
        block = torch.frombuffer(view, dtype=TYPES[target.dtype]).view(stop - start, -1)
        apply(start, stop, block)
        _refuse_infinite(change, block)
        if before is not None and before != view:
            self.changed.add(target.name)

    def _update(self, low: LowRank) -> torch.Tensor:
        """Compute B @ A as PEFT does, in one product and on all threads, because the rounding may depend on both."""
        a, b = (read_rows(factor).float() for factor in (low.a, low.b))
        product = torch.mm(b, a, out=self.work[: low.size].view(b.shape[0], a.shape[1]))
        return product.T if low.transposed else product


def read_rows(stored: Stored, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Read rows of a stored tensor; all of them by default."""
    stop = stored.rows if stop is None else stop
    shape = (stop - start, *stored.shape[1:]) if stored.shape else ()
    tensor = torch.empty(shape, dtype=TYPES[stored.dtype])
    offset = start * stored.row_size * tensor.element_size()
    read_into(stored.file, stored.start + offset, tensor.view(-1).view(torch.uint8).numpy().data)
    return tensor


def is_zero(change: Change) -> bool:
    """Return whether the adapter leaves the weight unchanged for any base."""
    low, other = change.low_rank, change.other
    if other:
        return does_nothing(other, read_rows)
    return low is not None and not (low.magnitude or (read_rows(low.b).any() and read_rows(low.a).any()))


def _of_other_kind(change: Scaling | Combined) -> Apply:
    if isinstance(change, Scaling):
        return partial(put_scaled, factors_of(change, read_rows), change.by_column)
    return partial(put_added, whole_change(change, read_rows))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _put_rows(merged: torch.Tensor, start: int, stop: int, block: torch.Tensor) -> None:
    block.copy_(merged[start:stop])


def _put_sum(change: Change, update: torch.Tensor | None, start: int, stop: int, block: torch.Tensor) -> None:
    if change.replacement:
        block.copy_(read_rows(change.replacement, start, stop).view(block.shape))
    if change.low_rank and update is not None:
        _add(block, update[start:stop], change.low_rank)
    if change.rows:
        for place, row in enumerate(change.rows.numbers):
            if start <= row < stop:
                block[row - start].copy_(read_rows(change.rows.stored, place, place + 1)[0])


def _put_other(change: Change, apply: Apply, start: int, stop: int, block: torch.Tensor) -> None:
    if change.replacement:
        block.copy_(read_rows(change.replacement, start, stop).view(block.shape))
    apply(start, stop, block)


def _add(block: torch.Tensor, update: torch.Tensor, low: LowRank) -> None:
    """Compute block += scaling · update; `update` may be overwritten."""
    rows = max(1, STRETCH // block.shape[1])
    exact = torch.empty(min(rows, len(block)), block.shape[1], dtype=torch.float32)
    # Multiplying by a power of two does not round, so that one operation gives the same bits as two.
    at_once = low.scaling >= 1 and math.frexp(low.scaling)[0] == 0.5
    for weight, change in zip(block.split(rows), update.split(rows), strict=True):
        if low.embedding:
            weight += change.mul_(low.scaling).to(weight.dtype)
            continue
        total = exact[: len(weight)]
        total.copy_(weight)
        if at_once:
            total.add_(change, alpha=low.scaling)
        else:
            total.add_(change.mul_(low.scaling))
        weight.copy_(total)


def _dora(change: Change, low: LowRank, update: torch.Tensor) -> torch.Tensor:
    """Scale the rows of W + Δ to the learned magnitudes (arXiv 2402.09353, equation 5), for the whole matrix."""
    weight = read_rows(change.target)
    if change.replacement:
        weight.copy_(read_rows(change.replacement))
    delta = update * low.scaling

    def turned(matrix: torch.Tensor) -> torch.Tensor:
        return matrix.T if low.transposed else matrix

    assert low.magnitude
    norm = torch.linalg.norm(turned(weight) + turned(delta), dim=1)
    factor = turned((read_rows(low.magnitude).float() / norm).view(-1, 1))
    return (factor * (weight + delta)).to(weight.dtype)


def _refuse_infinite(change: Change, block: torch.Tensor) -> None:
    # If the norm is finite, so are all values; checking every value takes twenty times as long.
    if not math.isfinite(torch.linalg.vector_norm(block)) and not torch.isfinite(block).all():
        raise NumericError(
            Problem("MERGE-E0303", change.target.name, f"values that are not finite after the merge ({change})",
                    "finite weights", "check the training: its loss or gradients were not finite either")
        )  # fmt: skip
