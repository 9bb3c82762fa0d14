"""Decoding with encoder-decoder models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steps.generation.answering import answer
from steps.generation.decoding import answer_texts
from steps.generation.generating import PLAIN
from steps.generation.tokens import How, Limits, Prompt


def answering(model: Any, tokenizer: Any, max_new_tokens: int, num_beams: int, opening: dict[str, int]) -> Any:
    """Return the generation settings; all are set, because missing ones are taken from the model's own file.

    Some models penalise repetition or require long answers there, which only suits their original purpose.
    """
    from transformers import GenerationConfig

    positions = getattr(model.config, "max_position_embeddings", None)
    named = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    return GenerationConfig(
        **{**PLAIN, "num_beams": num_beams},
        max_new_tokens=min(max_new_tokens, positions - 1) if positions else max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=tokenizer.pad_token_id,
        **opening,
    )


def answers(model: Any, tokenizer: Any, rows: Sequence[np.ndarray], *, how: Any, batch_size: int) -> list[str]:
    """Generate the answer to every row of token ids, in the given order; rows of similar length form a batch.

    `how` is the result of `answering`.
    """
    longest = max(map(len, rows), default=0) + how.max_new_tokens
    decoding = How(how, Limits(tokens=batch_size * longest))
    told: list[tuple[int, ...]] = [()] * len(rows)
    prompts = [Prompt(tuple(ids.tolist()), how.max_new_tokens) for ids in rows]
    for number, written in answer(model, prompts, decoding):
        told[number] = written.tokens
    return answer_texts(tokenizer, told, how.eos_token_id, opening_tokens(model, tokenizer, how))


def opening_tokens(model: Any, tokenizer: Any, how: Any) -> set[int]:
    """Return the tokens before an answer: the decoder's first one, the language, the tokenizer's own start."""
    told = [getattr(one, name) for one in (how, model.generation_config)
            for name in ("decoder_start_token_id", "forced_bos_token_id")]  # fmt: skip
    return {token for token in (*told, tokenizer.bos_token_id) if token is not None}


def padded(rows: Sequence[np.ndarray], filling: int) -> tuple[np.ndarray, np.ndarray]:
    """Stack rows with right padding; return them and the attention mask."""
    shape = (len(rows), max(map(len, rows)))
    values, mask = np.full(shape, filling, np.int64), np.zeros(shape, np.int64)
    for line, row in enumerate(rows):
        values[line, : len(row)], mask[line, : len(row)] = row, 1
    return values, mask
