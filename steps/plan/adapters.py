"""What an adapter needs of its base, as far as the base's configuration tells."""

from collections.abc import Iterator
from typing import Any

from steps.errors import Problem
from steps.kinds.adapters import ADAPTER_KINDS, put_into
from steps.models.layout import CONV1D_MODELS
from steps.params.pipeline import SupervisedParameters


def adapter_problems(p: SupervisedParameters, config: dict[str, Any], source: str) -> Iterator[Problem]:
    """Yield why this base cannot be tuned as asked for; `source` is the parameter that names the model."""
    if "quantization_config" in config:
        method = (config["quantization_config"] or {}).get("quant_method", "few bits")
        yield Problem("PLAN-E0381", source, f"weights that are quantised already ({method})", "weights in bf16, fp16 "
                      "or fp32: a trained adapter is merged into them", "name the model as it was before, and set "
                      "load_in_4bit or load_in_8bit")  # fmt: skip
    if not p.apply_lora:
        return
    kind = config.get("model_type", "unknown")
    if not ADAPTER_KINDS[p.peft_type].fits("conv1d") and kind in CONV1D_MODELS:
        yield Problem("PLAN-E0382", "peft_type", f"{p.peft_type} with a model of the type {kind}",
                      f"{put_into('conv1d')}: PEFT has no {p.peft_type} for the layers of this model",
                      "set peft_type=lora")  # fmt: skip
    count = layers(config)
    wanted = p.peft_kwargs.get("layers_to_transform") or []
    if count and isinstance(wanted, list) and any(isinstance(layer, int) and layer >= count for layer in wanted):
        yield Problem("PLAN-E0383", "peft_kwargs.layers_to_transform", str(max(wanted)), f"layers from 0 to "
                      f"{count - 1}, which the model has", "correct it")  # fmt: skip


def layers(config: dict[str, Any]) -> int:
    """Layers that the model has on its longer side; 0 when its configuration does not say."""
    names = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
    return max(int(config.get(name) or 0) for name in names)
