"""Check row lengths and model_args against the model's configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, nearest, shown
from steps.kinds.recipe import Recipe
from steps.params.pipeline import SupervisedParameters
from steps.params.preference import PreferenceMethod
from steps.params.training import NO_MODEL_ARGS
from steps.plan.generations import judged
from steps.plan.seen import Seen
from steps.plan.sources import ModelFound

# Type of a value in config.json → what is expected in its place; a boolean is also an int.
TYPES = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a text", list: "a list",
    Mapping: "an object",
}  # fmt: skip
# Keys that the weights depend on: another value would need other weights.
SHAPES = {
    "architectures", "d_ff", "d_kv", "d_model", "head_dim", "hidden_size", "intermediate_size", "model_type", "n_embd",
    "n_head", "n_inner", "num_attention_heads", "num_key_value_heads",
    "tie_word_embeddings", "vocab_size", "hidden_act", "activation_function",
}  # fmt: skip
LAYERS = {"n_layer", "num_hidden_layers", "num_layers"}
ONE_OR_SEVERAL = "eos_token_id"  # a number, or a list of numbers


def longest(p: SupervisedParameters, recipe: Recipe, model: ModelFound) -> int:
    """Return the longest input in tokens: max_seq_length, or the model's limit, or less for kinds that read windows.

    A trained prompt reduces the model's limit by its length. With rewards, it is a prompt with its completion.
    """
    if (rewards := judged(p)) is not None:
        return rewards.max_prompt_length + rewards.max_completion_length
    if p.max_seq_length > 0:
        return p.max_seq_length
    limits = [model.layout.max_length, recipe.kind.longest_window]
    if positions := model.layout.max_positions:
        limits.append(positions - p.virtual_tokens)
    return min(limit for limit in limits if limit is not None)


def length_problems(seen: Seen) -> list[Problem]:
    """Return problems of lengths beyond the model's positions, and of prompts that leave no room for an answer."""
    p, model = seen.parameters, seen.model
    if p.max_seq_length == 0:
        return [Problem("PLAN-E0306", "max_seq_length", "0", "-1 or a positive number", "leave it out")]
    if model is None:
        return []
    limit = model.layout.max_positions
    long = [
        Problem("PLAN-E0305", name, str(getattr(p, name)), f"at most {limit}, the model's number of positions",
                f"set {name}={limit}")
        for name in seen.recipe.kind.length_parameters
        if limit and getattr(p, name) > limit
    ]  # fmt: skip
    if long:
        return long
    return list(_prompt_problems(p, p.max_seq_length if p.max_seq_length > 0 else model.layout.max_length))


def _prompt_problems(p: SupervisedParameters, limit: int) -> Iterator[Problem]:
    """Refuse a prompt length that leaves no room for the answer; as a default it only has no effect."""
    if not isinstance(p, PreferenceMethod) or p.max_prompt_length < limit:
        return
    if p.max_prompt_length != PreferenceMethod.model_fields["max_prompt_length"].default:
        yield Problem("PLAN-E0321", "max_prompt_length", str(p.max_prompt_length),
                      f"less than {limit}, the longest row",
                      "lower it, or raise max_seq_length", why="the answer must fit behind the prompt")  # fmt: skip


def model_args_problems(seen: Seen) -> list[Problem]:
    """Refuse unknown keys of model_args, which would fail only when the model is built on a GPU."""
    p, problems = seen.parameters, []
    if p.attn_implementation == "flash_attention_2" and not p.number_of_gpu_to_use_finetuning:
        problems.append(
            Problem("PLAN-E0316", "attn_implementation", "flash_attention_2 without a GPU", "auto, eager or sdpa",
                    "leave it out")
        )  # fmt: skip
    for name, value in p.model_args.items() if seen.model else ():
        if name not in seen.config and name not in NO_MODEL_ARGS:
            fix = nearest(name, seen.config) or "see the model's config.json"
            problems.append(Problem("PLAN-E0317", f"model_args.{name}", shown(value),
                                    "a key of the model's configuration", fix))  # fmt: skip
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append(Problem("PLAN-E0324", f"model_args.{name}", str(value), "a finite number", "correct it"))
        elif name.endswith(("dropout", "_pdrop")) and isinstance(value, int | float) and not 0 <= value < 1:
            problems.append(Problem("PLAN-E0324", f"model_args.{name}", shown(value), "a number from 0 to below 1",
                                    "correct it"))  # fmt: skip
        wrong = [] if name == ONE_OR_SEVERAL else list(_wrong_types(f"model_args.{name}", value, seen.config.get(name)))
        problems += wrong or _unfit(name, value, seen.config.get(name))
    return problems


def _unfit(name: str, value: Any, now: Any) -> Iterator[Problem]:
    """Refuse another value of what the weights were made with; fewer layers only leave some of them out."""
    fewer = name in LAYERS and isinstance(value, int) and 0 < value < (now or 0)
    if now is not None and name in (*SHAPES, *LAYERS) and value != now and not fewer:
        yield Problem("PLAN-E0323", f"model_args.{name}", shown(value), f"{shown(now)}, as in config.json",
                      "leave it out", why="the weights were made with it")  # fmt: skip


def _wrong_types(where: str, value: Any, now: Any) -> Iterator[Problem]:
    """Refuse a value of another type than the configuration has; None there says nothing of the type."""
    if isinstance(now, Mapping) and isinstance(value, Mapping):
        for key in value:
            yield from _wrong_types(f"{where}.{key}", value[key], now.get(key))
    elif expected := _expected(value, now):
        yield Problem("PLAN-E0322", where, shown(value), f"{expected}, as in config.json ({shown(now)})", "correct it")


def _expected(value: Any, now: Any) -> str:
    """Return what a value should be; empty if it is of the type of `now`."""
    if value is None or now is None:
        return ""
    for kind, words in TYPES.items():
        if isinstance(now, kind):
            fits = isinstance(value, kind) and isinstance(value, bool) == isinstance(now, bool)
            return "" if fits or (kind is float and type(value) is int) else words
    return ""
