"""Answers to prompts, by the way of decoding that fits the model and the settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from steps.generation.decode_loop import DecodeLoop, can_decode
from steps.generation.tokens import Answer, How, Prompt
from steps.generation.whole_batches import generate_answers

# Adapters that change layers inside the model, so that the model itself can be called.
INSIDE = ("LORA", "IA3")


def answer(model: Any, prompts: Sequence[Prompt], how: How) -> Iterator[tuple[int, Answer]]:
    """Yield (place in `prompts`, answer) as answers are finished, in any order.

    An answer does not depend on the others, up to ties in the logits. Raises OutOfResources if a row alone does not fit
    into a GPU's memory, NumericError as `How` says.
    """
    inner = without_wrapper(model)
    if can_decode(inner, how):
        return DecodeLoop(inner, how).run(prompts)
    return generate_answers(model, prompts, how)


def without_wrapper(model: Any) -> Any:
    """Return the model inside PEFT's wrapper if the adapter works there as well, else the model as it is."""
    told = getattr(model, "peft_config", None)
    if not told or not hasattr(model, "get_base_model"):
        return model
    kinds = list(told.values())
    inside = all(str(getattr(kind.peft_type, "value", kind.peft_type)) in INSIDE for kind in kinds)
    activated = any(getattr(kind, "alora_invocation_tokens", None) for kind in kinds)
    return model.get_base_model() if inside and not activated else model
