"""Answers of a causal model by vLLM, for an evaluation: the same prompts and end tokens as with transformers."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steps.adapters.layout import kept_adapter_of
from steps.errors import Problem, UserError
from steps.evaluate.held_out import HeldOut
from steps.generation.decoding import answer_texts
from steps.generation.generating import end_tokens, greedy_prompts
from steps.generation.tokenizer import load_tokenizer
from steps.generation.tokens import Prompt
from steps.params.generation import DecodingParams, EngineParams
from steps.params.settings import EvaluationSettings, GenerateSettings

log = logging.getLogger("finetune")


def is_chosen(settings: EvaluationSettings, folder: Path) -> bool:
    """Return whether vLLM writes the answers of the model in `folder`.

    Raises UserError if it was asked for by name and cannot load a model with such an adapter.
    """
    asked = settings.evaluation.evaluation_engine
    if asked == "accelerate":
        return False
    if kept_adapter_of(folder) is not None:
        if asked == "auto":
            return False
        raise UserError(
            Problem("EVAL-E0209", "evaluation_engine", "vllm, for an adapter that cannot be merged", "accelerate",
                    "set evaluation_engine=accelerate", why="vLLM loads no learned prompts")
        )  # fmt: skip
    if asked == "vllm":
        return True
    import torch

    return find_spec("vllm") is not None and torch.cuda.is_available()


def answers_by_vllm(folder: Path, held_out: HeldOut, settings: EvaluationSettings, longest: int) -> list[str]:
    """Answer the questions of the rows greedily with up to `longest` tokens, in the order of the rows.

    Raises UserError if this machine has no vLLM, OutOfResources if memory does not suffice.
    """
    from steps.generation.vllm_engine import described

    model, tokenizer = described(folder), load_tokenizer(folder)
    texts = [prompt for prompt in held_out.prompts if prompt is not None]
    prompts = greedy_prompts(
        model, tokenizer, texts, rendered=held_out.rendered, max_new_tokens=longest, ending=held_out.ending
    )
    ends = end_tokens(model, tokenizer, held_out.end_of_turn)
    return answer_texts(tokenizer, tokens_by_vllm(folder, model, prompts, ends, settings), ends)


def tokens_by_vllm(
    folder: Path, model: Any, prompts: Sequence[Prompt], ends: list[int] | None, settings: EvaluationSettings
) -> list[tuple[int, ...]]:
    """Continue every prompt greedily until one of `ends`; the tokens are in the order of the prompts.

    `model` is the described model in `folder`. Raises as `answers_by_vllm`.
    """
    import torch

    from steps.generation.vllm_engine import open_engine

    if not prompts:
        return []
    gc.collect()  # the model that computed the losses
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    rows: list[tuple[int, ...]] = [()] * len(prompts)
    whole = max(len(prompt.ids) + prompt.most for prompt in prompts)
    most = max(prompt.most for prompt in prompts)
    with open_engine(_settings(settings, model.config, most, whole, ends), folder) as engine:
        for number, tokens in engine.answer(prompts):
            rows[number] = tokens
    return rows


def _settings(
    settings: EvaluationSettings, config: Any, most: int, whole: int, ends: list[int] | None
) -> GenerateSettings:
    import torch

    heads = getattr(config.get_text_config(), "num_attention_heads", None) or 1
    engine = EngineParams(
        inference_type="vllm",
        inference_precision="half" if settings.precision == "16" else "full",
        tensor_parallel_size=math.gcd(heads, max(torch.cuda.device_count(), 1)),
    )
    decoding = DecodingParams(max_new_tokens=most, max_length=whole, eos_tokens=",".join(map(str, ends or [])))
    return GenerateSettings(kind=settings.kind, decoding=decoding, engine=engine, gpus=settings.gpus)
