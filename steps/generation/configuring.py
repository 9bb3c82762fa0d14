"""The parameters of decoding for one model and its tokenizer, as transformers' GenerationConfig."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steps.errors import Problem, UserError, nearest, shown
from steps.generation.asked import is_number
from steps.generation.decoding_rules import split, stop_strings_of, unknown_ids
from steps.generation.generating import PLAIN, end_tokens
from steps.generation.prompting import vectors_of
from steps.generation.soft_prompts import virtual_tokens
from steps.generation.stopping import StopStrings
from steps.generation.tokens import How, Limits
from steps.params.generation import DecodingParams

EARLY: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}


def how_to_decode(decoding: DecodingParams, model: Any, tokenizer: Any, rows: int) -> How:
    """Return how `rows` at a time are decoded; `decoding` has no problems (`decoding_rules`).

    Raises UserError for end tokens and stop strings that the tokenizer does not have, and for values of hf_gen_params
    that transformers refuses for this model.
    """
    from transformers import GenerationConfig

    made, more = split(decoding)
    _refuse_unknown_ids(more, vectors_of(model))
    ends = set(_listed(more.pop("eos_token_id", None) or end_tokens(model, tokenizer) or []))
    ends |= set(named_tokens(made.eos_tokens, tokenizer))
    padding = more.pop("pad_token_id", tokenizer.pad_token_id)
    told = {
        **PLAIN,
        "do_sample": made.do_sample,
        "num_beams": made.num_beams,
        "early_stopping": EARLY[made.early_stopping],
        "length_penalty": made.length_penalty,
        "repetition_penalty": made.repetition_penalty,
        "no_repeat_ngram_size": made.no_repeat_ngram_size,
        "min_length": made.min_length,
        "min_new_tokens": made.min_new_tokens or None,
        "use_cache": made.use_cache,
        **({"temperature": made.temperature, "top_k": made.top_k, "top_p": made.top_p} if made.do_sample else {}),
        **({"min_p": made.min_p} if made.do_sample and made.min_p else {}),
        "max_new_tokens": made.max_new_tokens or made.max_inference_length,
        "eos_token_id": sorted(ends) or None,
        "pad_token_id": padding,
        **more,
    }
    how = How(
        GenerationConfig(**told),
        Limits(rows=rows),
        _stops(stop_strings_of(made), tokenizer),
        logprobs=made.logprobs,
        numbers_only=True,
        padding=padding or 0,
    )
    _refuse_for_model(how, model, more)
    return how


def named_tokens(names: str, tokenizer: Any) -> list[int]:
    """Return the ids of tokens that are named by id or by their text, separated by commas.

    Raises UserError for those that the tokenizer does not have.
    """
    known, ids, problems = tokenizer.get_vocab(), [], []
    for name in filter(None, (part.strip() for part in names.split(","))):
        number = int(name) if is_number(name) else known.get(name, _spelled(name, tokenizer))
        if 0 <= number < len(tokenizer):
            ids.append(number)
            continue
        fix = nearest(name, known) or "name a token of the tokenizer, or its id"
        expected = f"a token, or an id below {len(tokenizer)}"
        problems.append(
            Problem("GEN-E0202", "eos_tokens", f"{shown(name)}, which the tokenizer has not", expected, fix)
        )
    if problems:
        raise UserError(problems)
    return ids


def _spelled(text: str, tokenizer: Any) -> int:
    """Return the id of the token that writes a text; -1 if one token does not."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return int(ids[0]) if len(ids) == 1 and tokenizer.decode(ids) == text else -1


def _listed(told: int | Sequence[int]) -> list[int]:
    return [told] if isinstance(told, int) else list(told)


def _stops(texts: list[str], tokenizer: Any) -> StopStrings | None:
    if not texts:
        return None
    try:
        return StopStrings(tokenizer, texts)
    except ValueError:
        raise UserError(
            Problem("GEN-E0203", "stop_strings", shown(texts), "texts that the tokenizer's tokens can spell",
                    "leave those with unknown characters out")
        ) from None  # fmt: skip


def _refuse_for_model(how: How, model: Any, more: dict[str, Any]) -> None:
    """Let transformers build its processors once, so that wrong values are found before the first row."""
    from steps.generation.answering import without_wrapper

    if virtual_tokens(model) and not how.config.use_cache:
        raise UserError(
            Problem("GEN-E0208", "use_cache", "false with a learned prompt", "true", "leave it out",
                    why="transformers keeps keys and values where a prompt has vectors")
        )  # fmt: skip
    inner = without_wrapper(model)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    if not more:
        return
    try:
        _try_processors(inner, how)
    except Exception as error:  # what wrong values lead to is of any class
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(
            Problem("GEN-E0204", "hf_gen_params", shown(more), "values that transformers accepts", "correct the value",
                    why=said)
        ) from None  # fmt: skip


def _refuse_unknown_ids(more: dict[str, Any], known: int) -> None:
    """Refuse ids of tokens that the model does not have."""
    problems = [
        Problem("GEN-E0210", f"hf_gen_params.{name}", f"{wrong}, which the model has not", f"an id below {known}",
                "correct it, or leave it out")
        for name, wrong in unknown_ids(more, known)
    ]  # fmt: skip
    if problems:
        raise UserError(problems)


def _try_processors(model: Any, how: How) -> None:
    """Build and apply the processors for a short and for the longest answer; raises what wrong values lead to."""
    import torch

    from steps.generation.choosing import processors_of
    from steps.generation.tokens import Prompt

    ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    for most in {1, how.config.max_new_tokens}:
        scores = torch.zeros((1, model.config.get_text_config().vocab_size), device=model.device)
        with torch.inference_mode():
            for processor in processors_of(model, how.config, Prompt((0,), most)):
                scores = processor(ids, scores)
