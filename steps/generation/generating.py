"""Greedy answers, many at a time."""

from __future__ import annotations

from typing import Any

from steps.generation.batching import batches
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
    """Continue every prompt with the likeliest tokens until an end token or `max_new_tokens`; in the given order.

    `rendered` prompts already hold their special tokens. Where prompt and answer do not fit into the model's positions,
    the answer gets at most half of them and the prompt loses its start; or, where it is known what stands behind the
    text of a prompt (`ending`), the text loses its end, as in training. `end_of_turn` is a token that ends an answer
    as well, where the tokenizer knows it: what the tuned model has learned to stop at stops its base, too.
    """
    from transformers import GenerationConfig

    if not prompts:
        return []
    encoded = tokenizer(prompts, add_special_tokens=not rendered)["input_ids"]
    if limit := getattr(model.config.get_text_config(), "max_position_embeddings", None):
        max_new_tokens = min(max_new_tokens, limit // 2)
        kept = None if ending is None else len(tokenizer(ending, add_special_tokens=False)["input_ids"])
        encoded = [_fitted(ids, limit - max_new_tokens - virtual_tokens(model), kept) for ids in encoded]
    # Said in full, because what is left out is taken from the model's generation_config.json: some chat models punish
    # repeated tokens there, which hurts every answer that has to copy.
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
        for row, text in zip(group, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            texts[row] = text
    return texts


def _continued(model: Any, tokenizer: Any, rows: list[list[int]], how: Any) -> Any:
    """Give the new tokens of a batch; it ends as soon as every row has, and shorter ones are filled up with padding."""
    if virtual_tokens(model):
        return continue_rows(model, rows, how)
    inputs = tokenizer.pad({"input_ids": rows}, return_tensors="pt").to(model.device)
    return model.generate(**inputs, generation_config=how)[:, inputs["input_ids"].shape[1] :]


def _fitted(ids: list[int], room: int, kept: int | None) -> list[int]:
    """Cut a prompt that is too long: before its last `kept` tokens, or at its start."""
    if len(ids) <= room:
        return ids
    return ids[-room:] if kept is None else ids[: room - kept] + ids[len(ids) - kept :]


def end_tokens(model: Any, tokenizer: Any, end_of_turn: str = "") -> list[int] | None:
    """Every token that ends an answer, of the model and of the tokenizer: chat models often have two."""
    turn = tokenizer.get_vocab().get(end_of_turn)
    named = model.generation_config.eos_token_id
    ids = {turn, tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    return sorted(ids) or None
