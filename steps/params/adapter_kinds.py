"""How a parameter says which kinds of adapters read it, and what may stand in `peft_kwargs`.

What a kind is stands in its record (`steps/kinds/adapters/`). tests/steps/test_adapter_parameters.py holds all of it
against PEFT's own classes.
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
    """Marks a field as a parameter of adapters; how the kinds' records and PEFT are asked for it follows from that."""

    kinds: tuple[str, ...]
    """Kinds of adapters that it changes something for."""
    without_adapter: bool = False
    """Whether it may be set where no adapter is asked for: such defaults are copied from one file to the next."""
    at_start: bool = False
    """Whether it says how an adapter begins: one that training goes on with has begun."""


def marks(model: type[BaseModel]) -> dict[str, ReadBy]:
    """Give the parameters of a model that adapters read, each with its mark."""
    fields = model.model_fields.items()
    return {name: mark for name, field in fields for mark in field.metadata if isinstance(mark, ReadBy)}


def peft_names(model: type[BaseModel]) -> dict[str, str]:
    """Give what PEFT calls these parameters, for any kind → our name."""
    return {ADAPTER_KINDS[kind].in_peft(name): name for name, mark in marks(model).items() for kind in mark.kinds}


# Kinds that PEFT knows and that are not offered → what to do instead.
NOT_OFFERED = {
    "p_tuning": "set peft_type=prompt_tuning: its vectors are learned as they are, without a network that makes them",
    "prefix_tuning": "set peft_type=prompt_tuning: TRL's training has no place for keys and values before the text",
    "adalora": "set peft_type=lora with rank_pattern: its ranks change only under a loop of its own",
    "vera": "set peft_type=lora with lora_r=1: random matrices that all layers share are not merged here",
    "oft": "set peft_type=lora: turned weights are not merged here",
    "no_peft": "set apply_lora=false",
}

# More keys that PEFT knows and that are not given in peft_kwargs, beside those of parameters → what to do instead.
ELSEWHERE = {
    "prompt_tuning_init_text": "leave it out: a prompt begins as random vectors, or as those of random tokens",
    "peft_type": "set peft_type",
    "task_type": "leave it out: the pipeline's task decides it",
    "inference_mode": "leave it out: an adapter is trained here",
    "fan_in_fan_out": "leave it out: the layer's own class decides it",
    "base_model_name_or_path": "leave it out: the model that is imported is the base",
    "revision": "set huggingface_revision",
    "modules_to_save": "leave it out: a new head is trained whole by itself, other layers get an adapter",
    "trainable_token_indices": "set additional_special_tokens: their rows are trained beside the adapter",
}  # fmt: skip


def whole_numbers(value: Any) -> Any:
    """Give numbers without a fraction as int: KFP hands every number inside a dict over as a float."""
    if isinstance(value, dict):
        return {key: whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def kwargs_problems(kind: str, kwargs: dict[str, Any], parameters: Mapping[str, str]) -> Iterator[Problem]:
    """Yield what is wrong with `peft_kwargs` for a kind of adapter; `parameters` are those of `peft_names`."""
    known = ADAPTER_KINDS[kind].kwargs
    elsewhere = {**{theirs: f"set {ours}" for theirs, ours in parameters.items()}, **ELSEWHERE}
    for name, value in kwargs.items():
        where = f"peft_kwargs.{name}"
        if name in elsewhere:
            yield Problem("PARAM-E0262", where, shown(value), "a key without a parameter of its own", elsewhere[name])
        elif name not in known:
            others = [other.name for other in ADAPTER_KINDS.values() if name in other.kwargs]
            fix = f"leave it out, or set peft_type={others[0]}" if others else nearest(name, known) or "leave it out"
            yield Problem("PARAM-E0262", where, f"{name} with peft_type={kind}", f"one of {', '.join(sorted(known))}",
                          fix)  # fmt: skip
        elif not known[name].fits(value):
            yield Problem("PARAM-E0263", where, shown(value), known[name].expected, "correct it, or leave it out")
