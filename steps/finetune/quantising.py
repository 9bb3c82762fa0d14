"""A frozen base in 8 or 4 bits: how transformers loads it, and what of it is trained."""

from __future__ import annotations

from typing import Any

from steps.finetune.arguments import sixteen_bit_type
from steps.finetune.deepspeed import size_of
from steps.params.settings import FinetuneSettings


def quantisation(settings: FinetuneSettings, kept: list[str] | None = None) -> dict[str, Any]:
    """Give what from_pretrained needs to store the weights in few bits; nothing where they stay as they are.

    `kept` are modules that are stored as ever: a new head, which is trained. Without it transformers keeps the model's
    own head and what is tied to it.
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
    """Give the model back, its 4-bit weights never packed anew.

    On a CPU with AVX512-BF16 bitsandbytes 0.50 packs them at the first evaluation: it rounds their scales to bfloat16,
    with which training then goes on, and fails where a layer's width is no multiple of 32.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def train_in_float32(model: Any) -> None:
    """Keep what is trained in float32, whatever type the base has.

    In bfloat16 an update is lost that is smaller than a 256th of its weight. PEFT turns adapters into float32, but not
    heads that are trained whole; TRL 1.16 turns adapters on a quantised base into bfloat16.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def with_exact_adapter(trainer: Any, settings: FinetuneSettings) -> Any:
    """Give the trainer back, all that it trains in float32.

    TRL makes adapters shorter because of a quantised base, and the base's biases, if they are trained, have its type.
    """
    if settings.quantisation.bits or settings.lora.peft_kwargs.get("bias", "none") != "none":
        train_in_float32(trainer.model)
    return trainer


def count(parameter: Any) -> int:
    """Count the weights of a parameter: two of 4 bits lie in one byte."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else size_of(parameter)
