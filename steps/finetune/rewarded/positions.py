"""Positions of tokens behind padding on the left, as they were when a completion was written."""

from __future__ import annotations

import inspect
from typing import Any


def count_from_first_token(model: Any) -> None:
    """Let a model number the tokens of a padded batch from the first one of each row.

    TRL (1.16) gives no positions with its batches, whose prompts are padded on the left. Models with embeddings of
    absolute positions, such as GPT-2, would then read every shorter prompt at other positions than when they wrote.
    For rotary embeddings, which are relative, nothing changes.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    rotary = getattr(inner.config.get_text_config(), "rope_parameters", None)
    if not rotary and "position_ids" in inspect.signature(type(inner).forward).parameters:
        model.register_forward_pre_hook(_with_positions, with_kwargs=True)


def _with_positions(_model: Any, given: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    if not named.get("fused_lm_head") or named.get("position_ids") is not None:
        return None
    mask = named["attention_mask"]
    return given, {**named, "position_ids": (mask.long().cumsum(dim=-1) - 1).clamp(min=0)}
