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
    """The base stores (in, out)."""
    embedding: bool
    """PEFT rounds the change of an embedding before it adds it."""
    magnitude: Stored | None = None
    """Row lengths of the merged matrix (DoRA)."""

    @property
    def size(self) -> int:
        """Elements of B @ A."""
        return self.b.rows * self.a.row_size

    def __str__(self) -> str:
        turned = ".T" if self.transposed else ""
        text = f"+= {self.scaling:g} · (B{list(self.b.shape)} @ A{list(self.a.shape)}){turned}"
        return f"{text} with DoRA magnitudes" if self.magnitude else text


class TwoFactors:
    """How LoRA is folded in."""

    def wanted(self, parts: Set[str], dora: bool) -> set[str]:
        """Two factors, and with DoRA the lengths of the rows."""
        return {"lora_A", "lora_B", "lora_magnitude_vector"} if dora else {"lora_A", "lora_B"}

    def misfits(self, module: str, parts: dict[str, Stored], target: Stored, rank: int) -> Iterator[tuple[Stored, str]]:
        """Both have the rank of the settings, and their product the weight's shape."""
        a, b = parts["lora_A"], parts["lora_B"]
        if no_matrices({"lora_A": a, "lora_B": b}, target):
            yield a, "matrices: LoRA on convolutions is not merged here"
            return
        if not a.rows == b.row_size == rank:
            yield a, f"the rank {rank} that {module} has in the settings"
        either_way = {target.shape[::-1]} if _of_embedding(a) else {target.shape, target.shape[::-1]}
        if (b.rows, a.row_size) not in either_way:
            yield b, f"B (…, r) and A (r, …) that fit {target.name}{list(target.shape)}"

    def changes(
        self, parts: dict[str, Stored], target: Stored, bias: Stored | None, scaling: float, conv1d: bool
    ) -> Iterator[tuple[Stored, LowRank]]:
        """Their product is added to the weight."""
        a, b = parts["lora_A"], parts["lora_B"]
        embedding = _of_embedding(a)
        square = target.shape[0] == target.shape[1]
        # PEFT goes by the class of the layer, whatever fan_in_fan_out says; shapes tell the class unless it is square.
        transposed = embedding or (conv1d if square else (b.rows, a.row_size) != target.shape)
        yield target, LowRank(a, b, scaling, transposed, embedding, parts.get("lora_magnitude_vector"))


def _of_embedding(factor: Stored) -> bool:
    return ".lora_embedding_A" in factor.name


LORA = TwoFactors()
