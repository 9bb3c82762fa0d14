"""Greedy completions of the held-out prompts, by transformers or by vLLM, for rewards to judge."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from steps.evaluate.answers_by_vllm import is_chosen, tokens_by_vllm
from steps.generation.generating import end_tokens, greedy_answers
from steps.generation.loading import load, too_large
from steps.generation.seeing import answers_to_images
from steps.generation.soft_prompts import virtual_tokens
from steps.generation.tokenizer import load_tokenizer
from steps.generation.tokens import Prompt
from steps.models.images import image_reader
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Completed:
    """The completions of one model; every list has one entry for each prompt."""

    tokens: list[list[int]]
    """Written tokens, with the end token."""
    finished: list[bool]
    """Whether the completion ended by itself, and not at the greatest length."""
    texts: list[str]
    """As in training: without special tokens."""
    engine: str = ""
    """What wrote them, if not transformers."""


def complete(
    folder: Path,
    asked: Sequence[np.ndarray],
    end_of_turn: str,
    settings: EvaluationSettings,
    images: Sequence[Sequence[bytes] | None] = (),
) -> Completed:
    """Complete every prompt, given as token ids, greedily with up to max_completion_length tokens.

    `images` are those of each prompt, for a model that reads images.

    Raises UserError if the machine lacks the engine, OutOfResources if the memory is too small.
    """
    started = time.monotonic()
    tokenizer = load_tokenizer(folder)
    sees = settings.recipe.kind.reads_images
    by_vllm = not sees and is_chosen(settings, folder)
    if by_vllm:
        from steps.generation.vllm_engine import described

        model = described(folder)
        ends = end_tokens(model, tokenizer, end_of_turn)
        rows = tokens_by_vllm(folder, model, _prompts(asked, model, settings), ends, settings)
        finished = [bool(row) and row[-1] in (ends or ()) for row in rows]
    else:
        try:
            with torch.inference_mode():
                model = load(getattr(transformers, settings.recipe.kind.auto_class), folder, settings.precision)
                ends = end_tokens(model, tokenizer, end_of_turn)
                prompts = _prompts(asked, model, settings)
                if sees:
                    padding = tokenizer.pad_token_id or 0
                    reader, size = image_reader(folder), settings.batch_size
                    answers = answers_to_images(model, reader, prompts, images, ends, padding, size)
                else:
                    answers = greedy_answers(model, tokenizer, prompts, ends, settings.batch_size)
        except torch.OutOfMemoryError as error:
            raise too_large(folder, settings.batch_size) from error
        rows, finished = [one.tokens for one in answers], [one.stopped for one in answers]
    texts = list(tokenizer.batch_decode(rows, skip_special_tokens=True))
    log.info("%s completed %d prompts in %.1f s", folder.name, len(asked), time.monotonic() - started)
    return Completed([list(row) for row in rows], finished, texts, "vllm" if by_vllm else "")


def _prompts(asked: Sequence[np.ndarray], model: Any, settings: EvaluationSettings) -> list[Prompt]:
    """Return the prompts as they are; a completion is shorter if the model has no room for it, which is told."""
    assert settings.completions is not None
    most = settings.completions.max_completion_length
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    rooms = [positions - virtual_tokens(model) - len(ids) for ids in asked]
    if short := sum(room < most for room in rooms):
        log.warning(
            "WARNING %d of %d prompts leave less than max_completion_length=%d tokens for their completion in the "
            "model's %d positions", short, len(asked), most, positions,
        )  # fmt: skip
    return [Prompt(tuple(ids.tolist()), max(1, min(most, room))) for ids, room in zip(asked, rooms, strict=True)]
