"""Decoding with encoder-decoder models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from steps.generation.batching import batches
from steps.generation.decoding import answer_texts


def answering(model: Any, tokenizer: Any, max_new_tokens: int, num_beams: int, opening: dict[str, int]) -> Any:
    """Return the generation settings; all are set, because missing ones are taken from the model's own file.

    Some models penalise repetition or require long answers there, which only suits their original purpose.
    """
    from transformers import GenerationConfig

    positions = getattr(model.config, "max_position_embeddings", None)
    named = model.generation_config.eos_token_id
    ends = {tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    return GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        early_stopping=False,
        length_penalty=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        encoder_no_repeat_ngram_size=0,
        min_length=0,
        temperature=1.0,
        top_k=50,
        top_p=1.0,
        max_new_tokens=min(max_new_tokens, positions - 1) if positions else max_new_tokens,
        eos_token_id=sorted(ends) or None,
        pad_token_id=tokenizer.pad_token_id,
        **opening,
    )


def answers(model: Any, tokenizer: Any, rows: Sequence[np.ndarray], *, how: Any, batch_size: int) -> list[str]:
    """Generate the answer to every row of token ids, in the given order; rows of similar length form a batch.

    `how` is the result of `answering`.
    """
    import torch

    lengths = [len(ids) + how.max_new_tokens for ids in rows]
    opening = opening_tokens(model, tokenizer, how)
    texts = [""] * len(rows)
    for group in batches(lengths, batch_size * max(lengths)):
        read, mask = (torch.from_numpy(part).to(model.device) for part in padded([rows[row] for row in group], 0))
        output = model.generate(input_ids=read, attention_mask=mask, generation_config=how)
        for row, text in zip(group, answer_texts(tokenizer, output.tolist(), how.eos_token_id, opening), strict=True):
            texts[row] = text
    return texts


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
