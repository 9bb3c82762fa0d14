"""Kinds of adapters beside LoRA: what their tensors are called, where they fit, and what becomes of a weight.

IA3    W ← W · v, along the outputs of a layer (and its bias), or along the inputs of a feed-forward layer
LoHa   W ← W + scaling · (A1 @ B1) ∘ (A2 @ B2)
LoKr   W ← W + scaling · (W1 ⊗ W2), each of them whole or as a product
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from steps.models.weights import Stored

# PEFT's names of the tensors; LoRA's carry `.weight` behind them, these do not.
PARTS = r"ia3_l|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?"
STARTS = ("lora_", "ia3_", "hada_", "lokr_")


@dataclass(frozen=True)
class Scaling:
    """A factor for every row or every column of a weight, or for every element of a bias (IA3)."""

    vector: Stored
    by_column: bool

    def __str__(self) -> str:
        return f"·= {'columns' if self.by_column else 'rows'} {list(self.vector.shape)}"


@dataclass(frozen=True)
class Product:
    """A matrix of the adapter: whole, or a product of two."""

    factors: tuple[Stored, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.factors[0].rows, self.factors[-1].row_size

    def __str__(self) -> str:
        return " @ ".join(str(list(factor.shape)) for factor in self.factors)


@dataclass(frozen=True)
class Combined:
    """A change of full rank from two matrices: number by number (LoHa), or each by all of the other (LoKr)."""

    one: Product
    other: Product
    scaling: float
    kronecker: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the change."""
        rows, columns = self.one.shape
        return (rows * self.other.shape[0], columns * self.other.shape[1]) if self.kronecker else (rows, columns)

    @property
    def size(self) -> int:
        """Elements of the change."""
        return self.shape[0] * self.shape[1]

    def __str__(self) -> str:
        return f"+= {self.scaling:g} · ({self.one}) {'⊗' if self.kronecker else '∘'} ({self.other})"


def wanted_parts(kind: str, parts: set[str]) -> set[str]:
    """Give the tensors that a module of this kind must have, going by those that it has."""
    if kind == "IA3":
        return {"ia3_l"}
    if kind == "LOHA":
        return {f"hada_w{number}_{side}" for number in "12" for side in "ab"}
    whole = {number for number in "12" if f"lokr_w{number}" in parts}
    return {name for number in "12" for name in _names(f"lokr_w{number}", number in whole)}


def change_of(kind: str, parts: dict[str, Stored], scaling: float, by_column: bool) -> Scaling | Combined:
    """Describe what these tensors do to a weight; `by_column` says along which side of it IA3's vector lies."""
    if kind == "IA3":
        return Scaling(parts["ia3_l"], by_column)
    start = "hada_w" if kind == "LOHA" else "lokr_w"
    one, other = (
        Product(tuple(parts[name] for name in _names(f"{start}{number}", f"{start}{number}" in parts)))
        for number in "12"
    )
    return Combined(one, other, scaling, kronecker=kind == "LOKR")


def misfits(kind: str, parts: dict[str, Stored], target: Stored, rank: int) -> Iterator[tuple[Stored, str]]:
    """Yield the tensors that do not fit the weight `target`, each with what would."""
    if len(target.shape) != 2 or any(len(stored.shape) != 2 for stored in parts.values()):
        yield next(iter(parts.values())), "matrices: adapters on convolutions are not merged here"
        return
    if kind == "IA3":
        vector = parts["ia3_l"]
        if 1 not in vector.shape or not {vector.rows * vector.row_size} & set(target.shape):
            yield vector, f"a vector for one side of {target.name}{list(target.shape)}"
        return
    for name, stored in parts.items():
        inner = stored.row_size if name.endswith("_a") else stored.rows if name.endswith("_b") else rank
        if inner != rank:
            yield stored, f"the rank {rank} that it has in the settings"
            return
    change = change_of(kind, parts, 1.0, False)
    assert isinstance(change, Combined)
    if change.shape != target.shape or (not change.kronecker and change.one.shape != change.other.shape):
        yield next(iter(parts.values())), f"matrices that fit {target.name}{list(target.shape)}"


def scales_inputs(vector: Stored) -> bool:
    """Say whether IA3's vector is one of a feed-forward layer, whose inputs it scales: PEFT stores it as a row."""
    return vector.shape[0] == 1


def _names(start: str, whole: bool) -> tuple[str, ...]:
    return (start,) if whole else (f"{start}_a", f"{start}_b")
