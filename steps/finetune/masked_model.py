"""Load masked language models for training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.finetune.loading import load_adapted
from steps.params.settings import FinetuneSettings


def load_masked_model(folder: Path, settings: FinetuneSettings) -> Any:
    """Load a masked language model for training; with LoRA as a PEFT model. Types as in `loading.load_model`."""
    from transformers import AutoModelForMaskedLM

    return load_adapted(AutoModelForMaskedLM, folder, settings)
