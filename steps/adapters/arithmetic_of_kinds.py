"""The arithmetic of IA3, LoHa and LoKr, with PEFT 0.21.2's operations in its order.

PEFT computes, with the adapter in float32 and W of any float type:

    IA3    W = round(W · v)                        one product, rounded once          (ia3/layer.py, Linear)
    LoHa   W = round(W + (A1 @ B1) · (A2 @ B2) · s)  the change in float32, rounded once  (loha/layer.py)
    LoKr   W = round(W + (W1 ⊗ W2) · s)             the same                          (lokr/layer.py)
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from steps.adapters.kinds import Combined, Product, Scaling
from steps.models.weights import Stored

Read = Callable[[Stored], torch.Tensor]


def put_scaled(vector: torch.Tensor, by_column: bool, start: int, stop: int, block: torch.Tensor) -> None:
    """Multiply the rows `start` to `stop`, which are in `block`."""
    factors = vector.view(1, -1) if by_column else vector[start:stop].view(-1, 1)
    block.copy_(block * factors)


def put_added(change: torch.Tensor, start: int, stop: int, block: torch.Tensor) -> None:
    """Add the rows `start` to `stop` of a change to `block`."""
    block += change[start:stop]


def factors_of(scaling: Scaling, read: Read) -> torch.Tensor:
    """Read IA3's vector as float32."""
    return read(scaling.vector).float().flatten()


def whole_change(combined: Combined, read: Read) -> torch.Tensor:
    """Compute the change in float32, as one matrix and on all threads, because the rounding may depend on both."""
    one, other = _matrix(combined.one, read), _matrix(combined.other, read)
    if combined.kronecker:
        return torch.kron(one, other.contiguous()) * combined.scaling
    return (one * other).mul_(torch.tensor(combined.scaling))


def does_nothing(change: Scaling | Combined, read: Read) -> bool:
    """Return whether a change leaves every weight unchanged."""
    if isinstance(change, Scaling):
        return bool((read(change.vector) == 1).all())
    return any(not read(factor).any() for product in (change.one, change.other) for factor in product.factors)


def _matrix(product: Product, read: Read) -> torch.Tensor:
    first, *rest = (read(factor).float() for factor in product.factors)
    return first @ rest[0] if rest else first
