"""Loading of weights in 8 or 4 bits with bitsandbytes, and the type of 16-bit arithmetic."""

from __future__ import annotations

from typing import Any

from steps.params.quantisation import QuantisationParams


def quantised(wanted: QuantisationParams, computed: str, kept: list[str] | None = None) -> dict[str, Any]:
    """Return the arguments of from_pretrained that quantise the weights; empty if they are not quantised.

    `computed` is the type of matrix products with 4-bit weights if the parameters leave it open; `kept` are modules
    that are not quantised.
    """
    if not wanted.bits:
        return {}
    from transformers import BitsAndBytesConfig

    chosen: str = wanted.bnb_4bit_compute_dtype
    config = BitsAndBytesConfig(
        load_in_8bit=wanted.load_in_8bit,
        load_in_4bit=wanted.load_in_4bit,
        llm_int8_threshold=wanted.llm_int8_threshold,
        llm_int8_skip_modules=kept,
        bnb_4bit_quant_type=wanted.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=wanted.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=computed if chosen == "auto" else chosen,
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


def sixteen_bit_type() -> str:
    """Return the type of precision=16: bfloat16, or float16 on GPUs without bfloat16."""
    import torch

    # By default torch also counts GPUs that emulate bfloat16, such as T4 and V100, which are faster in float16.
    has_bfloat16 = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_bfloat16 else "float16"
