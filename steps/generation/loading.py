"""A model and its tokenizer, loaded to be asked: on one GPU, several, or none."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from steps.errors import OutOfResources, Problem
from steps.generation.soft_prompts import with_kept_adapter
from steps.models.layout import refuse_unsafe_weights


def load(auto_class: Any, folder: Path, precision: str) -> Any:
    """Load a model for measuring, where the memory of the one before is free again."""
    refuse_unsafe_weights(folder)
    gc.collect()  # the model measured before
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    transformers_logging.disable_progress_bar()
    place = {0: None, 1: "cuda"}.get(torch.cuda.device_count(), "auto")
    dtype = torch.bfloat16 if precision == "16" else torch.float32
    model = auto_class.from_pretrained(
        folder, dtype=dtype, device_map=place, local_files_only=True, use_safetensors=True
    )
    return with_kept_adapter(model, folder).eval()


def too_large(folder: Path, batch_size: int) -> OutOfResources:
    """Say what to change when the GPU's memory is too small."""
    smaller = f"set per_device_eval_batch_size={batch_size // 2}" if batch_size > 1 else "set precision=16"
    return OutOfResources(
        Problem("EVAL-E0501", str(folder), f"no GPU memory left with {batch_size} rows at a time",
                "a batch that fits", f"{smaller}, or lower evaluation_max_new_tokens")
    )  # fmt: skip
