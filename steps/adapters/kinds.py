"""IA3, LoHa and LoKr: which tensors belong together, where they fit, and what they change (LoRA: `low_rank.py`).

IA3    W ← W · v, along the outputs of a layer (and its bias), or along the inputs of a feed-forward layer
LoHa   W ← W + scaling · (A1 @ B1) ∘ (A2 @ B2)
LoKr   W ← W + scaling · (W1 ⊗ W2), each a full matrix or a product of two
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any, Protocol

from steps.models.weights import Stored

CONVOLUTIONS = "matrices (adapters on convolutions cannot be merged)"


class Folding(Protocol):
    """Interface of a kind of adapter for the planning of a merge; `folded_by` of its record names an instance.

    `parts` are the tensors of one layer, by their names in PEFT after the name of the layer.
    """

    def wanted(self, parts: Set[str], dora: bool) -> set[str]:
        """Return the names of the tensors that a layer must have, given those that it has."""

    def misfits(self, module: str, parts: dict[str, Stored], target: Stored, rank: int) -> Iterator[tuple[Stored, str]]:
        """Yield the tensors that do not fit the weight `target`, each with what is expected."""

    def changes(
        self, parts: dict[str, Stored], target: Stored, bias: Stored | None, scaling: float, conv1d: bool
    ) -> Iterator[tuple[Stored, Any]]:
        """Yield the changes of the weight and, if it changes too, of its bias.

        `conv1d` is true for a layer of a class that stores (in, out).
        """


@dataclass(frozen=True)
class Scaling:
    """A factor for every row or every column of a weight, or for every element of a bias (IA3)."""

    vector: Stored
    by_column: bool

    def __str__(self) -> str:
        return f"·= {'columns' if self.by_column else 'rows'} {list(self.vector.shape)}"


@dataclass(frozen=True)
class Product:
    """A matrix of the adapter: stored as one, or a product of two."""

    factors: tuple[Stored, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.factors[0].rows, self.factors[-1].row_size

    def __str__(self) -> str:
        return " @ ".join(str(list(factor.shape)) for factor in self.factors)


@dataclass(frozen=True)
class Combined:
    """The elementwise product (LoHa) or the Kronecker product (LoKr) of two matrices, times scaling."""

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
        """Number of elements of the change."""
        return self.shape[0] * self.shape[1]

    def __str__(self) -> str:
        return f"+= {self.scaling:g} · ({self.one}) {'⊗' if self.kronecker else '∘'} ({self.other})"


def no_matrices(parts: dict[str, Stored], target: Stored) -> bool:
    """Return whether the weight or a tensor of the adapter is not a matrix, as for convolutions."""
    return len(target.shape) != 2 or any(len(stored.shape) != 2 for stored in parts.values())


class OneVector:
    """Merging of IA3. Its vector is stored as a row if it scales the inputs of a feed-forward layer."""

    def wanted(self, parts: Set[str], dora: bool) -> set[str]:
        """Return the name of the vector."""
        return {"ia3_l"}

    def misfits(self, module: str, parts: dict[str, Stored], target: Stored, rank: int) -> Iterator[tuple[Stored, str]]:
        """Yield the vector if its length is neither dimension of the weight."""
        vector = parts["ia3_l"]
        if no_matrices(parts, target):
            yield vector, CONVOLUTIONS
        elif 1 not in vector.shape or not {vector.rows * vector.row_size} & set(target.shape):
            yield vector, f"a vector with the length of one dimension of {target.name}{list(target.shape)}"

    def changes(
        self, parts: dict[str, Stored], target: Stored, bias: Stored | None, scaling: float, conv1d: bool
    ) -> Iterator[tuple[Stored, Scaling]]:
        """Yield the scaling of rows or columns; if these are the outputs, also that of the bias."""
        vector = parts["ia3_l"]
        inputs = vector.shape[0] == 1
        square = target.shape[0] == target.shape[1]
        fits = target.shape[1 if inputs else 0] == vector.rows * vector.row_size
        # GPT-2 stores (in, out), others (out, in); unless the weight is square, shapes determine which.
        yield target, Scaling(vector, by_column=inputs != (conv1d if square else not fits))
        if bias and not inputs:
            yield bias, Scaling(vector, by_column=False)


@dataclass(frozen=True)
class TwoMatrices:
    """Merging of LoHa and LoKr."""

    begin: str
    """Prefix of the names of the tensors, before the number of the matrix."""
    kronecker: bool

    def wanted(self, parts: Set[str], dora: bool) -> set[str]:
        """Return the names for two matrices, each stored as one or as a product of two."""
        return {name for number in "12" for name in self._names(number, parts)}

    def misfits(self, module: str, parts: dict[str, Stored], target: Stored, rank: int) -> Iterator[tuple[Stored, str]]:
        """Yield a tensor if its rank differs from the settings', or if the change's shape differs from the weight's."""
        if no_matrices(parts, target):
            yield next(iter(parts.values())), CONVOLUTIONS
            return
        for name, stored in parts.items():
            inner = stored.row_size if name.endswith("_a") else stored.rows if name.endswith("_b") else rank
            if inner != rank:
                yield stored, f"the rank {rank} from adapter_config.json"
                return
        change = self._change(parts, 1.0)
        if change.shape != target.shape or (not self.kronecker and change.one.shape != change.other.shape):
            yield next(iter(parts.values())), f"matrices that fit {target.name}{list(target.shape)}"

    def changes(
        self, parts: dict[str, Stored], target: Stored, bias: Stored | None, scaling: float, conv1d: bool
    ) -> Iterator[tuple[Stored, Combined]]:
        """Yield the product of both matrices, which is added to the weight."""
        yield target, self._change(parts, scaling)

    def _change(self, parts: dict[str, Stored], scaling: float) -> Combined:
        one, other = (Product(tuple(parts[name] for name in self._names(number, parts.keys()))) for number in "12")
        return Combined(one, other, scaling, self.kronecker)

    def _names(self, number: str, parts: Set[str]) -> tuple[str, ...]:
        whole = self.begin + number
        return (whole,) if whole in parts else (f"{whole}_a", f"{whole}_b")


IA3 = OneVector()
LOHA = TwoMatrices("hada_w", kronecker=False)
LOKR = TwoMatrices("lokr_w", kronecker=True)
