"""Compute losses and answers of a causal model, on the CPU, one GPU or several; vLLM may write the answers."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from steps.evaluate.answers_by_vllm import answers_by_vllm, is_chosen
from steps.evaluate.held_out import HeldOut, Measured
from steps.evaluate.losses import row_losses
from steps.generation.generating import answers
from steps.generation.loading import load, too_large
from steps.generation.tokenizer import load_tokenizer
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


def measure(folder: Path, held_out: HeldOut, settings: EvaluationSettings) -> Measured:
    """Compute one model's losses and answers; raises OutOfResources if the GPU's memory is too small."""
    started = time.monotonic()
    by_vllm = is_chosen(settings, folder)
    asked = [row for row, prompt in enumerate(held_out.prompts) if prompt is not None]
    longest = settings.evaluation.evaluation_max_new_tokens + held_out.template_tokens
    try:
        with torch.inference_mode():
            model = load(AutoModelForCausalLM, folder, settings.precision)
            nll, supervised = row_losses(model, held_out, settings.batch_size)
            texts = [] if by_vllm else _answers(model, folder, held_out, settings, longest)
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    if by_vllm:
        del model  # vLLM takes nearly all of a GPU's memory
        texts = answers_by_vllm(folder, held_out, settings, longest)
    answered: list[str | None] = [None] * len(held_out)
    for row, text in zip(asked, texts, strict=True):
        answered[row] = text
    log.info("measured %s on %d rows in %.1f s", folder.name, len(held_out), time.monotonic() - started)
    return Measured(nll, supervised, answered, "vllm" if by_vllm else "")


def _answers(model: object, folder: Path, held_out: HeldOut, settings: EvaluationSettings, longest: int) -> list[str]:
    return answers(
        model,
        load_tokenizer(folder),
        [prompt for prompt in held_out.prompts if prompt is not None],
        rendered=held_out.rendered,
        max_new_tokens=longest,
        batch_size=settings.batch_size,
        ending=held_out.ending,
        end_of_turn=held_out.end_of_turn,
    )
