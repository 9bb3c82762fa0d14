"""One rank and one scale for all modules of a LoRA adapter, for a reader that knows no others.

PEFT gives each module its own by rank_pattern and alpha_pattern. Here every pair gets the largest rank, with zeros that
add nothing, and its own scale goes into its B:

    scaling · B @ A  =  (alpha / r) · B′ @ A′        B′ = [scaling · r / alpha · B | 0],  A′ = [A ; 0]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from steps.adapters.folders import Folder
from steps.adapters.planning import FACTOR, PREFIX
from steps.adapters.sameness import Floats, read_floats, rounded
from steps.adapters.settings import LoraSettings, read_settings
from steps.models.weights import FLOATS, Stored

PATTERNS = ("rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class Even:
    """What differs from the adapter as it was."""

    settings: dict[str, Any]
    """Values of adapter_config.json."""
    scales: dict[str, float]
    """Tensor (a B) → what it is multiplied by; an A stands with 1."""
    rank: int

    def described(self, stored: Stored) -> Stored:
        """The tensor's header entry: type and shape as `content` gives them."""
        name = stored.name
        if name not in self.scales:
            return stored
        rows, columns = stored.shape
        shape = (self.rank, columns) if is_first(name) else (rows, self.rank)
        size = shape[0] * shape[1] * FLOATS[stored.dtype]
        return replace(stored, shape=shape, start=0, end=size)

    def content(self, stored: Stored) -> bytes:
        """The tensor scaled, and with zeros up to the common rank."""
        values = read_floats(stored, 0, stored.rows).reshape(stored.shape)
        made = np.zeros(self.described(stored).shape, dtype=np.float32)
        made[: values.shape[0], : values.shape[1]] = values * np.float32(self.scales[stored.name])
        return as_bytes(made, stored.dtype)


def evened(adapter: Folder, kept: dict[str, Stored]) -> Even | None:
    """Find what gives all modules one rank and one scale; None where they have them already.

    Raises UserError for patterns that are no patterns.
    """
    if not any(adapter.config.get(name) for name in PATTERNS):
        return None
    wanted = {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", *PATTERNS}
    only = {name: value for name, value in adapter.config.items() if name in wanted}
    settings = read_settings(replace(adapter, config=only))
    modules = {name: match["module"] for name in kept if (match := FACTOR.fullmatch(name.removeprefix(PREFIX)))}
    rank = max(settings.rank_of(module) for module in modules.values())
    common = _scale(settings, rank)
    scales = {name: 1.0 if is_first(name) else settings.scaling_of(module) / common for name, module in modules.items()}
    return Even({"r": rank, **{name: {} for name in PATTERNS}}, scales, rank)


def is_first(name: str) -> bool:
    """Say whether a factor is an A, whose rows are the rank; a B has it in its columns."""
    return ".lora_A." in name or ".lora_embedding_A" in name


def as_bytes(values: Floats, dtype: str) -> bytes:
    """Write numbers in a type of a safetensors file."""
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    return (rounded(values, dtype).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _scale(settings: LoraSettings, rank: int) -> float:
    return settings.alpha / (math.sqrt(rank) if settings.rank_stabilised else rank)
