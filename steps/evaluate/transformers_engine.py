"""Measures a model with transformers, on one GPU, several, or none."""

from __future__ import annotations

import gc
import logging
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from steps.errors import OutOfResources, Problem
from steps.evaluate.generating import answers
from steps.evaluate.held_out import HeldOut, Measured, load_tokenizer
from steps.evaluate.losses import row_losses
from steps.evaluate.soft_prompts import with_kept_adapter
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


@torch.inference_mode()
def measure(folder: Path, held_out: HeldOut, settings: EvaluationSettings) -> Measured:
    """Compute one model's losses and answers; raises OutOfResources when the GPU's memory is too small."""
    started = time.monotonic()
    try:
        model = load(AutoModelForCausalLM, folder, settings.precision)
        nll, supervised = row_losses(model, held_out, settings.batch_size)
        asked = [row for row, prompt in enumerate(held_out.prompts) if prompt is not None]
        texts = answers(
            model,
            load_tokenizer(folder),
            [prompt for prompt in held_out.prompts if prompt is not None],
            rendered=held_out.rendered,
            max_new_tokens=settings.evaluation.evaluation_max_new_tokens,
            batch_size=settings.batch_size,
            ending=held_out.ending,
            end_of_turn=held_out.end_of_turn,
        )
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    answered: list[str | None] = [None] * len(held_out)
    for row, text in zip(asked, texts, strict=True):
        answered[row] = text
    log.info("measured %s on %d rows in %.1f s", folder.name, len(held_out), time.monotonic() - started)
    return Measured(nll, supervised, answered)


def load(auto_class: Any, folder: Path, precision: str) -> Any:
    """Load a model for measuring, where the memory of the one before is free again."""
    gc.collect()  # the model measured before
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    transformers_logging.disable_progress_bar()
    place = {0: None, 1: "cuda"}.get(torch.cuda.device_count(), "auto")
    dtype = torch.bfloat16 if precision == "16" else torch.float32
    model = auto_class.from_pretrained(folder, dtype=dtype, device_map=place, local_files_only=True)
    return with_kept_adapter(model, folder).eval()


def too_large(folder: Path, batch_size: int) -> OutOfResources:
    """Say what to change when the GPU's memory is too small."""
    smaller = f"set per_device_eval_batch_size={batch_size // 2}" if batch_size > 1 else "set precision=16"
    return OutOfResources(
        Problem("EVAL-E0501", str(folder), f"no GPU memory left with {batch_size} rows at a time",
                "a batch that fits", f"{smaller}, or lower evaluation_max_new_tokens")
    )  # fmt: skip
