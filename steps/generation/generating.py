"""Greedy decoding in batches with causal models."""

from __future__ import annotations

from typing import Any

from steps.generation.batching import batches
from steps.generation.decoding import answer_texts
from steps.generation.soft_prompts import continue_rows, virtual_tokens


def answers(
    model: Any,
    tokenizer: Any,
    prompts: list[str],
    *,
    rendered: bool,
    max_new_tokens: int,
    batch_size: int,
    ending: str | None = None,
    end_of_turn: str = "",
) -> list[str]:
    """Continue every prompt greedily until an end token or `max_new_tokens`; answers are in the given order.

    `rendered` prompts already have their special tokens. If prompt and answer exceed the model's positions, the answer
    gets at most half of them and the prompt is truncated at its start; if the part after the text of a prompt is known
    (`ending`), the text is truncated at its end, as in training. `end_of_turn` is another end token, used if the
    tokenizer has it, so that the base stops at the same token as the tuned model.
    """
    from transformers import GenerationConfig

    if not prompts:
        return []
    encoded = tokenizer(prompts, add_special_tokens=not rendered)["input_ids"]
    if limit := getattr(model.config.get_text_config(), "max_position_embeddings", None):
        max_new_tokens = min(max_new_tokens, limit // 2)
        kept = None if ending is None else len(tokenizer(ending, add_special_tokens=False)["input_ids"])
        encoded = [_fitted(ids, limit - max_new_tokens - virtual_tokens(model), kept) for ids in encoded]
    # All settings are given, because missing ones are taken from the model's generation_config.json: some chat models
    # penalise repeated tokens there, which harms answers that have to copy from the prompt.
    greedy = GenerationConfig(
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        max_new_tokens=max_new_tokens,
        eos_token_id=end_tokens(model, tokenizer, end_of_turn),
        pad_token_id=tokenizer.pad_token_id,
    )
    lengths = [len(ids) + max_new_tokens for ids in encoded]
    texts = [""] * len(prompts)
    for group in batches(lengths, batch_size * max(lengths)):
        new = _continued(model, tokenizer, [encoded[row] for row in group], greedy)
        for row, text in zip(group, answer_texts(tokenizer, new.tolist(), greedy.eos_token_id), strict=True):
            texts[row] = text
    return texts


def _continued(model: Any, tokenizer: Any, rows: list[list[int]], how: Any) -> Any:
    """Return the new tokens of a batch, padded to the longest answer; generation stops when all rows have ended."""
    if virtual_tokens(model):
        return continue_rows(model, rows, how)
    inputs = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
    return model.generate(**inputs, generation_config=how)[:, inputs["input_ids"].shape[1] :]


def _fitted(ids: list[int], room: int, kept: int | None) -> list[int]:
    """Truncate a prompt that is too long: before its last `kept` tokens, or at its start."""
    if len(ids) <= room:
        return ids
    return ids[-room:] if kept is None else ids[: room - kept] + ids[len(ids) - kept :]


def end_tokens(model: Any, tokenizer: Any, end_of_turn: str = "") -> list[int] | None:
    """Return all end tokens of model and tokenizer; chat models often have two."""
    turn = tokenizer.get_vocab().get(end_of_turn)
    named = model.generation_config.eos_token_id
    ids = {turn, tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    return sorted(ids) or None
