"""Greedy answers to prompts with images, by transformers.

The prompts have all tokens of their images (`steps/models/images.py`), so that only pixels are added here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from steps.generation.generating import PLAIN
from steps.generation.tokens import Answer, Prompt
from steps.models.images import ImageReader


def answers_to_images(
    model: Any,
    reader: ImageReader,
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[bytes] | None],
    ends: Sequence[int] | None,
    padding: int,
    batch_size: int,
) -> list[Answer]:
    """Continue every prompt greedily until one of `ends`; answers are in the given order.

    Prompts of about the same length are answered together.
    """
    answers: dict[int, Answer] = {}
    order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number].ids))
    for start in range(0, len(order), batch_size):
        group = order[start : start + batch_size]
        made = _continued(model, reader, [prompts[n] for n in group], [images[n] or () for n in group], ends, padding)
        answers.update(zip(group, made, strict=True))
    return [answers[number] for number in range(len(prompts))]


def _continued(
    model: Any,
    reader: ImageReader,
    prompts: Sequence[Prompt],
    images: Sequence[Sequence[bytes]],
    ends: Sequence[int] | None,
    padding: int,
) -> list[Answer]:
    from transformers import GenerationConfig

    how = GenerationConfig(
        **PLAIN,
        max_new_tokens=max(prompt.most for prompt in prompts),
        eos_token_id=list(ends) if ends else None,
        pad_token_id=padding,
    )
    inputs = _padded(prompts, padding, reader.token)
    if seen := [image for one in images for image in one]:
        inputs |= reader.inputs(seen)
    else:
        del inputs["mm_token_type_ids"]  # without images, positions are counted as in a model of text
    placed = {name: value.to(model.device) for name, value in inputs.items()}
    if "pixel_values" in placed:
        placed["pixel_values"] = placed["pixel_values"].to(model.dtype)
    output = model.generate(**placed, generation_config=how)[:, inputs["input_ids"].shape[1] :]
    return [_until_end(row, prompt.most, set(ends or ())) for row, prompt in zip(output.tolist(), prompts, strict=True)]


def _padded(prompts: Sequence[Prompt], padding: int, image_token: int) -> dict[str, torch.Tensor]:
    """Return the prompts with padding on the left; mm_token_type_ids are 1 for tokens of images."""
    longest = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), longest), padding, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for line, prompt in enumerate(prompts):
        ids[line, longest - len(prompt.ids) :] = torch.tensor(prompt.ids, dtype=torch.long)
        mask[line, longest - len(prompt.ids) :] = 1
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == image_token).int()}


def _until_end(row: Sequence[int], most: int, ends: set[int]) -> Answer:
    """Return a written row up to its first end token, or to its greatest length."""
    kept = list(row[:most])
    stop = next((number for number, token in enumerate(kept) if token in ends), None)
    return Answer(tuple(kept if stop is None else kept[: stop + 1]), stop is not None)
