"""How much of a training's arithmetic is useful, and the share of the device's peak that it reaches (MFU)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def useful_flops(config: dict[str, Any], base: int, adapter: int, rows: Iterable[int]) -> int:
    """Return the floating-point operations that training on rows of these lengths needs, with a frozen base and LoRA.

    A token costs 2 operations per weight in the forward pass, 2 for the gradient of the weight's input and 2 for that
    of the weight (Chowdhery et al. 2022, PaLM, appendix B: 6 N). A frozen weight has no gradient: 4 for each of `base`,
    6 for each of `adapter`. Attention multiplies no weights: 12 · layers · heads · head size · length per token there,
    half of that here, as a causal model needs no token's successors. Padding and what is computed again (gradient
    checkpointing) are no useful work.
    """
    tokens = squares = 0
    for length in rows:
        tokens += length
        squares += length * length
    heads = config["num_attention_heads"]
    width = heads * config.get("head_dim", config["hidden_size"] // heads)
    return tokens * (4 * base + 6 * adapter) + 6 * config["num_hidden_layers"] * width * squares


def peak_flops(card: str) -> float | None:
    """Return the card's dense bfloat16 operations per second by TRL's table; None for a card that is not in it."""
    from trl.trainer.utils import get_peak_flops

    return get_peak_flops(card, "bfloat16")
