"""A frozen base in 8 or 4 bits: its loading, and the type of the trained weights."""

from __future__ import annotations

from typing import Any

from steps.finetune.weights import size_of
from steps.models.quantising import quantised, sixteen_bit_type
from steps.params.settings import FinetuneSettings


def quantisation(settings: FinetuneSettings, kept: list[str] | None = None) -> dict[str, Any]:
    """Return the arguments of from_pretrained that quantise the weights; empty if they are not quantised.

    `kept` are modules that are not quantised: a new head, which is trained. Without it transformers does not quantise
    the model's head and weights tied to it.
    """
    half = settings.training.precision == "16"
    return quantised(settings.quantisation, sixteen_bit_type() if half else "float32", kept)


def train_in_float32(model: Any) -> None:
    """Convert trainable parameters to float32, independent of the base's type.

    In bfloat16, updates smaller than 1/256 of the weight are lost. PEFT converts adapters to float32, but not heads
    that are trained as a whole; TRL 1.16 converts adapters on a quantised base to bfloat16.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def with_exact_adapter(trainer: Any, settings: FinetuneSettings) -> Any:
    """Convert all trainable parameters of the trainer to float32, and return it.

    TRL converts adapters on a quantised base to bfloat16, and trained biases of the base have the base's type.
    """
    if settings.quantisation.bits or settings.lora.peft_kwargs.get("bias", "none") != "none":
        train_in_float32(trainer.model)
    return trainer


def count(parameter: Any) -> int:
    """Return the number of weights of a parameter; 4-bit weights are stored two per byte."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else size_of(parameter)
