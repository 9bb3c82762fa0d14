"""Models that put back hidden tokens: loading one for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.finetune.loading import lora_config, new_or_stored
from steps.params.settings import FinetuneSettings


def load_masked_model(folder: Path, settings: FinetuneSettings) -> Any:
    """Load a masked language model for training; with LoRA as a PEFT model. Types as in `loading.load_model`."""
    from transformers import AutoModelForMaskedLM, set_seed

    set_seed(settings.training.seed)  # an adapter's first weights are drawn
    model = new_or_stored(AutoModelForMaskedLM, folder, settings)
    if not settings.lora.apply_lora:
        return model
    from peft import get_peft_model

    tuned = get_peft_model(model, lora_config(settings.lora, model, type(model).__name__))
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if settings.training.gradient_checkpointing == "true":
        tuned.enable_input_require_grads()
    return tuned
