"""What the head over the vocabulary and its loss need at the end of the forward pass."""

from __future__ import annotations

from steps.kinds.recipe import Recipe
from steps.plan.activations import WIDE, Architecture, Kept

# TRL computes the loss of causal models in tiles (trl.kernels.chunked_logprob).
TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
TILE_STEPS = 7.25  # float32 tiles that are computed one from the other where no Triton kernel does it in place


def logits_bytes(recipe: Recipe, a: Architecture, kept: Kept, written: int, tokens: int) -> int:
    """Return the bytes of logits, of their loss and of its gradients; 0 for models without a vocabulary to predict.

    `written` are the tokens that the head is computed for, `tokens` those of the rows.
    """
    if not recipe.kind.logits_over_vocabulary or not a.vocabulary:
        return 0
    if recipe.kind.name == "causal_lm" and not recipe.method.whole_logits:
        return _tiled(a, kept, tokens)
    # Log-probabilities in float32 and their gradients, and the logits; 16-bit ones and their gradients beside them.
    return written * a.vocabulary * (2 * WIDE + (2 * kept.width if kept.half else kept.width))


def _tiled(a: Architecture, kept: Kept, tokens: int) -> int:
    """Bytes of a tile of logits, of the gradients of the head's input and of the head, which is summed in float32."""
    columns = min(a.vocabulary, TILE_VOCABULARY)
    rows = min(tokens, TILE_TOKENS)
    tile = rows * TILE_VOCABULARY * kept.width
    steps = 0 if kept.gpu else int(rows * columns * WIDE * TILE_STEPS)
    head = 0 if kept.adapter else a.vocabulary * a.hidden * WIDE
    weights = columns * a.hidden * kept.width if kept.half else 0
    return tile + steps + head + weights + tokens * a.hidden * WIDE
