"""Requests as tokens, truncated so that prompt and answer fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steps.errors import Problem, UserError
from steps.generation.requests import Request
from steps.generation.soft_prompts import virtual_tokens
from steps.generation.tokens import Prompt
from steps.generation.whole_batches import has_encoder
from steps.params.generation import DecodingParams


def as_prompts(
    requests: Sequence[Request], decoding: DecodingParams, model: Any, tokenizer: Any
) -> tuple[list[Prompt], list[bool]]:
    """Return the prompt of each request, and whether it was truncated."""
    encoded = _encoded(requests, tokenizer)
    _refuse_unknown(requests, encoded, vectors_of(model))
    encoder = has_encoder(model)
    prompts, cut = [], []
    room, total = _room(decoding, model, encoder)
    for request, ids in zip(requests, encoded, strict=True):
        truncated = len(ids) > room
        if truncated:
            ids = _shortened(request, room, tokenizer) if encoder else ids[-room:]
        most = total if encoder else min(decoding.max_new_tokens or total, total - len(ids))
        prompts.append(Prompt(tuple(ids), most, request.seed, request.sample))
        cut.append(truncated)
    return prompts, cut


def _encoded(requests: Sequence[Request], tokenizer: Any) -> list[list[int]]:
    """Tokenise; prompts that a chat template rendered have their special tokens already."""
    encoded: list[list[int]] = [[]] * len(requests)
    for rendered in (False, True):
        places = [place for place, request in enumerate(requests) if request.rendered == rendered]
        if not places:
            continue
        texts = [requests[place].prompt for place in places]
        for place, ids in zip(places, tokenizer(texts, add_special_tokens=not rendered)["input_ids"], strict=True):
            encoded[place] = ids
    first = next((one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id) if one is not None), 0)
    return [ids or [first] for ids in encoded]  # a model continues at least one token


def vectors_of(model: Any) -> int:
    """Return how many tokens a model has a vector for; a very large number if it does not tell."""
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    return int(getattr(embeddings, "num_embeddings", 2**31))


def _refuse_unknown(requests: Sequence[Request], encoded: Sequence[Sequence[int]], known: int) -> None:
    """Refuse prompts with tokens that the model has no vector for."""
    for request, ids in zip(requests, encoded, strict=True):
        if max(ids) >= known:
            raise UserError(
                Problem("GEN-E0209", f"row {request.row}", f"the token {max(ids)}", f"tokens below {known}, as the "
                        "model has them", "give the model the tokenizer that it was trained with, or add vectors for "
                        "new tokens")
            )  # fmt: skip


def _room(decoding: DecodingParams, model: Any, encoder: bool) -> tuple[int, int]:
    """Return the longest prompt, and the longest prompt and answer together; with an encoder, the longest answer.

    If the model has too few positions for both, the answer gets at most half of them.
    """
    most = decoding.max_new_tokens
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    positions = positions - virtual_tokens(model) if positions else 2**31
    if encoder:
        longest = most or decoding.max_inference_length - 1  # behind the decoder's start token
        return min(decoding.max_length - most, positions), min(longest, positions - 1)
    if not most:
        total = min(decoding.max_inference_length, positions)
        return total - 1, total
    total = min(decoding.max_length, positions)
    return min(decoding.max_length - most, max(positions - most, positions - positions // 2)), total


def _shortened(request: Request, room: int, tokenizer: Any) -> list[int]:
    """Truncate at the end of the text, and keep the special tokens around it."""
    tokenizer.truncation_side = "right"
    told = tokenizer(request.prompt, add_special_tokens=not request.rendered, truncation=True, max_length=room)
    return list(told["input_ids"])[:room]  # a tokenizer leaves the whole text if its special tokens alone are more
