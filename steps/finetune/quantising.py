"""A frozen base in 8 or 4 bits: its loading, and the type of the trained weights."""

from __future__ import annotations

from typing import Any

from steps.finetune.arguments import sixteen_bit_type
from steps.finetune.deepspeed import size_of
from steps.params.settings import FinetuneSettings


def quantisation(settings: FinetuneSettings, kept: list[str] | None = None) -> dict[str, Any]:
    """Return the arguments of from_pretrained that quantise the weights; empty if they are not quantised.

    `kept` are modules that are not quantised: a new head, which is trained. Without it transformers does not quantise
    the model's head and weights tied to it.
    """
    wanted = settings.quantisation
    if not wanted.bits:
        return {}
    from transformers import BitsAndBytesConfig

    computed: str = wanted.bnb_4bit_compute_dtype
    if computed == "auto":
        computed = sixteen_bit_type() if settings.training.precision == "16" else "float32"
    config = BitsAndBytesConfig(
        load_in_8bit=wanted.load_in_8bit,
        load_in_4bit=wanted.load_in_4bit,
        llm_int8_threshold=wanted.llm_int8_threshold,
        llm_int8_skip_modules=kept,
        bnb_4bit_quant_type=wanted.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=wanted.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=computed,
    )
    return {"quantization_config": config}


def keep_as_stored(model: Any) -> Any:
    """Disable the repacking of 4-bit weights, and return the model.

    On a CPU with AVX512-BF16 bitsandbytes 0.50 repacks them at the first evaluation: it rounds their scales to
    bfloat16, which training then uses, and fails if a layer's width is not a multiple of 32.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


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
