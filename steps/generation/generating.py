"""Greedy decoding with causal models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steps.generation.answering import answer
from steps.generation.decoding import answer_texts
from steps.generation.soft_prompts import virtual_tokens
from steps.generation.tokens import Answer, How, Limits, Prompt

# Every setting whose default a model's file could change.
PLAIN: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "early_stopping": False, "length_penalty": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0, "use_cache": True,
}  # fmt: skip


def greedy_prompts(
    model: Any, tokenizer: Any, texts: list[str], *, rendered: bool, max_new_tokens: int, ending: str | None = None
) -> list[Prompt]:
    """Return texts as prompts for greedy answers of up to `max_new_tokens`.

    `rendered` texts already have their special tokens. If prompt and answer exceed the model's positions, the answer
    gets at most half of them and the prompt is truncated at its start; if the part after the text of a prompt is known
    (`ending`), the text is truncated at its end, as in training.
    """
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=not rendered)["input_ids"]
    if limit := getattr(model.config.get_text_config(), "max_position_embeddings", None):
        max_new_tokens = min(max_new_tokens, limit // 2)
        kept = None if ending is None else len(tokenizer(ending, add_special_tokens=False)["input_ids"])
        encoded = [_fitted(ids, limit - max_new_tokens - virtual_tokens(model), kept) for ids in encoded]
    return [Prompt(tuple(ids), max_new_tokens) for ids in encoded]


def answers(
    model: Any,
    tokenizer: Any,
    texts: list[str],
    *,
    rendered: bool,
    max_new_tokens: int,
    batch_size: int,
    ending: str | None = None,
    end_of_turn: str = "",
) -> list[str]:
    """Continue every text greedily until an end token or `max_new_tokens`; answers are in the given order.

    The arguments are those of `greedy_prompts` and `end_tokens`.
    """
    if not texts:
        return []
    prompts = greedy_prompts(model, tokenizer, texts, rendered=rendered, max_new_tokens=max_new_tokens, ending=ending)
    ends = end_tokens(model, tokenizer, end_of_turn)
    rows = (one.tokens for one in greedy_answers(model, tokenizer, prompts, ends, batch_size))
    return answer_texts(tokenizer, rows, ends)


def greedy_answers(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], ends: list[int] | None, batch_size: int
) -> list[Answer]:
    """Continue every prompt greedily until one of `ends`; answers are in the given order."""
    from transformers import GenerationConfig

    if not prompts:
        return []
    # All settings are given, because missing ones are taken from the model's generation_config.json: some chat models
    # penalise repeated tokens there, which harms answers that have to copy from the prompt.
    greedy = GenerationConfig(
        **PLAIN,
        max_new_tokens=max(prompt.most for prompt in prompts),
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
    )
    longest = max(len(prompt.ids) + prompt.most for prompt in prompts)
    how = How(greedy, Limits(tokens=batch_size * longest), padding=tokenizer.pad_token_id or 0)
    rows = dict(answer(model, prompts, how))
    return [rows[number] for number in range(len(prompts))]


def _fitted(ids: list[int], room: int, kept: int | None) -> list[int]:
    """Truncate a prompt that is too long: before its last `kept` tokens, or at its start."""
    if len(ids) <= room:
        return ids
    return ids[-room:] if kept is None else ids[: room - kept] + ids[len(ids) - kept :]


def end_tokens(model: Any, tokenizer: Any, end_of_turn: str = "") -> list[int] | None:
    """Return all end tokens of model and tokenizer; chat models often have two.

    `end_of_turn` is another one, used if the tokenizer has it, so that the base stops at the same token as the tuned
    model.
    """
    turn = tokenizer.get_vocab().get(end_of_turn)
    named = model.generation_config.eos_token_id
    ids = {turn, tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    return sorted(ids) or None
