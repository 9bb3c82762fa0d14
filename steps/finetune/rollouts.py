"""Completions that a model writes while it is being trained, to learn from their rewards.

The model writes with the project's own decoding (steps/generation/answering.py): equal prompts are read once, and a
completion that has ended does not wait for the others. The draws of a completion follow from its seed alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig

from steps.errors import NumericError, OutOfResources, Problem
from steps.generation.answering import answer
from steps.generation.generating import PLAIN, end_tokens
from steps.generation.tokens import How, Limits, Prompt
from steps.params.reward_training import Completions


class Written(NamedTuple):
    """A completion as tokens."""

    tokens: list[int]
    """The tokens with the end token."""
    finished: bool
    """Whether it ended by itself, and not at the greatest length."""


def write_completions(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    asked: Completions,
    seeds: Sequence[int],
    ends: Sequence[int] | None = None,
    limits: Limits | None = None,
) -> list[Written]:
    """Sample one completion of each prompt with its seed; the result is in the order of `prompts`.

    `model` is unwrapped: not inside DistributedDataParallel or a DeepSpeed engine. It writes in evaluation mode,
    without gradient checkpointing, in the autocast of the caller, and is left as it was found. `ends` are end tokens;
    by default those of the model's generation settings and the tokenizer's. `limits` that the caller keeps remembers
    between calls how many rows fit into a GPU's memory.

    Raises OutOfResources if one row alone does not fit, NumericError if the logits are not numbers.
    """
    how = _how(model, tokenizer, asked, ends, limits or Limits())
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
    most = asked.max_completion_length
    rows = [
        Prompt(tuple(ids), max(1, min(most, positions - len(ids))), seed)
        for ids, seed in zip(prompts, seeds, strict=True)
    ]
    told: list[Written] = [Written([], False)] * len(rows)
    try:
        with writing(model):
            for number, one in answer(model, rows, how):
                told[number] = Written(list(one.tokens), one.stopped)
    except OutOfResources as error:
        raise _too_large(max(map(len, prompts)), asked) from error
    except NumericError as error:
        raise _not_numbers() from error
    return told


def _how(model: Any, tokenizer: Any, asked: Completions, ends: Sequence[int] | None, limits: Limits) -> How:
    padding = tokenizer.pad_token_id
    config = GenerationConfig(
        **{
            **PLAIN,
            "do_sample": True,
            "temperature": asked.temperature,
            "top_p": asked.top_p,
            "top_k": asked.top_k,
            "repetition_penalty": asked.repetition_penalty,
            "max_new_tokens": asked.max_completion_length,
            "eos_token_id": end_tokens(model, tokenizer) if ends is None else sorted(set(ends)) or None,
            "pad_token_id": padding,
        }
    )
    return How(config, limits, numbers_only=True, padding=padding or 0, trained=True)


@contextmanager
def writing(model: Any) -> Iterator[None]:
    """Within the block, the model is in evaluation mode and computes nothing twice; afterwards it is as it was.

    The modes are those of every module, as parts of a model that is trained may be in evaluation mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    saving = [module for module in model.modules() if vars(module).get("gradient_checkpointing") is True]
    # Weights that autocast has converted without gradients may not be used where gradients are computed, and reverse.
    torch.clear_autocast_cache()
    try:
        model.eval()
        for module in saving:
            module.gradient_checkpointing = False
        yield
    finally:
        for module in saving:
            module.gradient_checkpointing = True
        for module, training in modes:
            module.training = training
        torch.clear_autocast_cache()


def _too_large(longest: int, asked: Completions) -> OutOfResources:
    return OutOfResources(
        Problem("TRAIN-E0504", "max_completion_length",
                f"no GPU memory left for one completion of up to {asked.max_completion_length} tokens of a prompt of "
                f"{longest}", "memory for one completion beside the training",
                "lower max_completion_length or max_prompt_length, set gradient_checkpointing=true, or use larger GPUs")
    )  # fmt: skip


def _not_numbers() -> NumericError:
    return NumericError(
        Problem("TRAIN-E0603", "model", "logits that are not numbers", "finite logits",
                "lower learning_rate, or raise warmup_steps", why="no completion can be written with them")
    )  # fmt: skip
