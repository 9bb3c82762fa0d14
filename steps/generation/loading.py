"""Load a model for inference on the CPU, one GPU or several."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from steps.errors import OutOfResources, Problem
from steps.generation.soft_prompts import with_kept_adapter
from steps.models.generation_settings import load_reduced
from steps.models.layout import refuse_unsafe_weights


def load(auto_class: Any, folder: Path, precision: str, **how: Any) -> Any:
    """Load a model for inference, after freeing the memory of the previous model.

    `how` are further arguments of from_pretrained, such as those of quantisation.
    """
    refuse_unsafe_weights(folder)
    gc.collect()  # frees the previous model
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    transformers_logging.disable_progress_bar()
    place = {0: None, 1: "cuda"}.get(torch.cuda.device_count(), "auto")
    dtype = torch.bfloat16 if precision == "16" else torch.float32
    how = {"dtype": dtype, "device_map": place, **how}
    model = load_reduced(auto_class, folder, local_files_only=True, use_safetensors=True, **how)
    return with_kept_adapter(model, folder).eval()


def too_large(folder: Path, batch_size: int) -> OutOfResources:
    """Return the error for insufficient GPU memory, with a fix."""
    smaller = f"set per_device_eval_batch_size={batch_size // 2}" if batch_size > 1 else "set precision=16"
    return OutOfResources(
        Problem("EVAL-E0501", str(folder), f"no GPU memory left with a batch of {batch_size} rows",
                "a batch that fits into GPU memory", f"{smaller}, or lower evaluation_max_new_tokens")
    )  # fmt: skip
