"""Which kinds of adapters use a parameter, and the keys allowed in `peft_kwargs`.

Each kind is defined by its record (`steps/kinds/adapters/`). tests/steps/test_adapter_parameters.py compares all of
them with PEFT's own classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from steps.errors import Problem, nearest, shown
from steps.kinds.adapters import ADAPTER_KINDS

# PEFT's name of a kind → ours.
KINDS_OF_PEFT = {kind.peft_name: kind.name for kind in ADAPTER_KINDS.values()}


@dataclass(frozen=True)
class ReadBy:
    """Marks a field as an adapter parameter, so that it is passed to the kinds' records and to PEFT."""

    kinds: tuple[str, ...]
    """Kinds of adapters that use it."""
    without_adapter: bool = False
    """Whether it may be set without an adapter, because its default is often copied from file to file."""
    at_start: bool = False
    """Whether it only affects the initial weights, so that it has no effect for an adapter that training continues."""


def marks(model: type[BaseModel]) -> dict[str, ReadBy]:
    """Return the adapter parameters of a model, each with its mark."""
    fields = model.model_fields.items()
    return {name: mark for name, field in fields for mark in field.metadata if isinstance(mark, ReadBy)}


def peft_names(model: type[BaseModel]) -> dict[str, str]:
    """Map PEFT's names of these parameters, of all kinds, to our names."""
    return {ADAPTER_KINDS[kind].in_peft(name): name for name, mark in marks(model).items() for kind in mark.kinds}


# Kinds of PEFT that are not supported → what to do instead.
NOT_OFFERED = {
    "p_tuning": "set peft_type=prompt_tuning: it trains the vectors directly, without a network that generates them",
    "prefix_tuning": "set peft_type=prompt_tuning: TRL's training does not support keys and values before the text",
    "adalora": "set peft_type=lora with rank_pattern: adalora needs its own training loop to change ranks",
    "vera": "set peft_type=lora with lora_r=1: merging random matrices shared by all layers is not supported",
    "oft": "set peft_type=lora: merging rotated weights is not supported",
    "no_peft": "set apply_lora=false",
}

# Keys of PEFT, besides those of parameters, that are refused in peft_kwargs → what to do instead.
ELSEWHERE = {
    "prompt_tuning_init_text": "leave it out: a prompt starts from random vectors, or from those of random tokens",
    "peft_type": "set peft_type",
    "task_type": "leave it out: the pipeline's task decides it",
    "inference_mode": "leave it out: the adapter is always trained",
    "fan_in_fan_out": "leave it out: the layer's own class decides it",
    "base_model_name_or_path": "leave it out: the imported model is the base",
    "revision": "set huggingface_revision",
    "modules_to_save": "leave it out: a new head is trained fully anyway, other layers get an adapter",
    "trainable_token_indices": "set additional_special_tokens: their embeddings are trained together with the adapter",
}  # fmt: skip


def whole_numbers(value: Any) -> Any:
    """Convert whole numbers to int, because KFP passes every number inside a dict as a float."""
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def kwargs_problems(kind: str, kwargs: dict[str, Any], parameters: Mapping[str, str]) -> Iterator[Problem]:
    """Yield the problems of `peft_kwargs` for a kind of adapter; `parameters` is the result of `peft_names`."""
    known = ADAPTER_KINDS[kind].kwargs
    elsewhere = {**{theirs: f"set {ours}" for theirs, ours in parameters.items()}, **ELSEWHERE}
    for name, value in kwargs.items():
        where = f"peft_kwargs.{name}"
        if name in elsewhere:
            yield Problem("PARAM-E0262", where, shown(value), "a key that has no parameter of its own", elsewhere[name])
        elif name not in known:
            others = [other.name for other in ADAPTER_KINDS.values() if name in other.kwargs]
            fix = f"leave it out, or set peft_type={others[0]}" if others else nearest(name, known) or "leave it out"
            yield Problem("PARAM-E0262", where, f"{name} with peft_type={kind}", f"one of {', '.join(sorted(known))}",
                          fix)  # fmt: skip
        elif not known[name].fits(value):
            yield Problem("PARAM-E0263", where, shown(value), known[name].expected, "correct it, or leave it out")
