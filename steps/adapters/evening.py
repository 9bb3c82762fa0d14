"""Convert a LoRA adapter to one rank and one scale for all modules, as vLLM requires.

With rank_pattern and alpha_pattern, PEFT supports a rank and scale per module. Here every pair of factors is padded
with zeros to the largest rank, and its own scale is multiplied into its B:

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
from steps.adapters.settings import LoraSettings, bound, read_settings
from steps.adapters.targets import PATTERNS
from steps.models.weights import FLOATS, Stored


@dataclass(frozen=True)
class Even:
    """The changes to an adapter that give all its modules one rank and one scale."""

    settings: dict[str, Any]
    """New values for adapter_config.json."""
    scales: dict[str, float]
    """Name of a factor → its multiplier; 1 for an A."""
    rank: int

    def described(self, stored: Stored) -> Stored:
        """Return the tensor's header entry, with the type and shape of `content`."""
        name = stored.name
        if name not in self.scales:
            return stored
        rows, columns = stored.shape
        shape = (self.rank, columns) if is_first(name) else (rows, self.rank)
        size = shape[0] * shape[1] * FLOATS[stored.dtype]
        return replace(stored, shape=shape, start=0, end=size)

    def content(self, stored: Stored) -> bytes:
        """Return the tensor scaled, and padded with zeros to the common rank."""
        values = read_floats(stored, 0, stored.rows).reshape(stored.shape)
        made = np.zeros(self.described(stored).shape, dtype=np.float32)
        made[: values.shape[0], : values.shape[1]] = values * np.float32(self.scales[stored.name])
        return as_bytes(made, stored.dtype)


def evened(adapter: Folder, kept: dict[str, Stored]) -> Even | None:
    """Return the changes that give all modules one rank and one scale; None for an adapter without patterns.

    Raises UserError for invalid patterns.
    """
    if not any(adapter.config.get(name) for name in PATTERNS):
        return None
    wanted = {"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", *PATTERNS}
    only = {name: value for name, value in adapter.config.items() if name in wanted}
    settings = read_settings(replace(adapter, config=only))
    modules = {name: match["module"] for name in kept if (match := FACTOR.fullmatch(name.removeprefix(PREFIX)))}
    settings = bound(settings, adapter.where, modules.values())
    rank = max(settings.rank_of(module) for module in modules.values())
    common = _scale(settings, rank)
    scales = {name: 1.0 if is_first(name) else settings.scaling_of(module) / common for name, module in modules.items()}
    return Even({"r": rank, **{name: {} for name in PATTERNS}}, scales, rank)


def is_first(name: str) -> bool:
    """Return whether a factor is an A, of shape (rank, in), rather than a B, of shape (out, rank)."""
    return ".lora_A." in name or ".lora_embedding_A" in name


def as_bytes(values: Floats, dtype: str) -> bytes:
    """Encode numbers in a type of safetensors."""
    if dtype == "F32":
        return values.tobytes()
    if dtype == "F16":
        return values.astype(np.float16).tobytes()
    return (rounded(values, dtype).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _scale(settings: LoraSettings, rank: int) -> float:
    return settings.alpha / (math.sqrt(rank) if settings.rank_stabilised else rank)
