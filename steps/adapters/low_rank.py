"""LoRA and DoRA: which tensors belong together, where they fit, and what they change."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from steps.adapters.kinds import no_matrices
from steps.models.weights import Stored


@dataclass(frozen=True)
class LowRank:
    """A weight change of low rank: scaling · B @ A, B (out, r) and A (r, in)."""

    a: Stored
    b: Stored
    scaling: float
    transposed: bool
    """Whether the base stores (in, out)."""
    embedding: bool
    """Whether the weight is an embedding, whose change PEFT rounds before adding it."""
    magnitude: Stored | None = None
    """Norms of the rows of the merged matrix (DoRA)."""

    @property
    def size(self) -> int:
        """Number of elements of B @ A."""
        return self.b.rows * self.a.row_size

    def __str__(self) -> str:
        turned = ".T" if self.transposed else ""
        text = f"+= {self.scaling:g} · (B{list(self.b.shape)} @ A{list(self.a.shape)}){turned}"
        return f"{text} with DoRA magnitudes" if self.magnitude else text


class TwoFactors:
    """Merging of LoRA and DoRA."""

    def wanted(self, parts: Set[str], dora: bool) -> set[str]:
        """Return the names of both factors, and with DoRA that of the magnitudes."""
        return {"lora_A", "lora_B", "lora_magnitude_vector"} if dora else {"lora_A", "lora_B"}

    def misfits(self, module: str, parts: dict[str, Stored], target: Stored, rank: int) -> Iterator[tuple[Stored, str]]:
        """Yield A if the rank differs from the settings', and B if the product's shape does not fit the weight's."""
        a, b = parts["lora_A"], parts["lora_B"]
        if no_matrices({"lora_A": a, "lora_B": b}, target):
            yield a, "matrices (LoRA on convolutions cannot be merged)"
            return
        if not a.rows == b.row_size == rank:
            yield a, f"the rank {rank} that adapter_config.json has for {module}"
        either_way = {target.shape[::-1]} if _of_embedding(a) else {target.shape, target.shape[::-1]}
        if (b.rows, a.row_size) not in either_way:
            yield b, f"B (…, r) and A (r, …) that fit {target.name}{list(target.shape)}"

    def changes(
        self, parts: dict[str, Stored], target: Stored, bias: Stored | None, scaling: float, conv1d: bool
    ) -> Iterator[tuple[Stored, LowRank]]:
        """Yield the product of the factors, which is added to the weight."""
        a, b = parts["lora_A"], parts["lora_B"]
        embedding = _of_embedding(a)
        square = target.shape[0] == target.shape[1]
        # PEFT uses the class of the layer, not fan_in_fan_out; unless the weight is square, shapes determine the class.
        transposed = embedding or (conv1d if square else (b.rows, a.row_size) != target.shape)
        yield target, LowRank(a, b, scaling, transposed, embedding, parts.get("lora_magnitude_vector"))


def _of_embedding(factor: Stored) -> bool:
    return ".lora_embedding_A" in factor.name


LORA = TwoFactors()
