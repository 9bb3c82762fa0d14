"""What the kinds of adapters take: which of our parameters, and which keys of `peft_kwargs`.

A table, so that the plan can refuse a wrong key without importing PEFT; tests/steps/test_adapter_parameters.py holds it
against PEFT's own classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from steps.errors import Problem, nearest, shown


@dataclass(frozen=True)
class Values:
    """What a key may be set to."""

    expected: str
    fits: Callable[[Any], bool]


@dataclass(frozen=True)
class Kind:
    """One kind of adapter."""

    takes: frozenset[str]
    """Those of the group's parameters that change something for it."""
    kwargs: dict[str, Values]
    """Key of `peft_kwargs` → its values."""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _by_name(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def fit(value: Any) -> bool:
        return isinstance(value, dict) and bool(value) and all(map(fits, value.values())) and all(map(_pattern, value))

    return fit


def _pattern(name: str) -> bool:
    try:
        return bool(re.compile(name))
    except re.error:
        return False


def _layers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_whole(layer) and layer >= 0 for layer in value)


NAMES = Values("a list of module names", _names)
YES_OR_NO = Values("true or false", lambda value: isinstance(value, bool))
DROPOUT = Values("a number from 0 up to 1", _share)
# Keys of every kind that puts something into chosen layers.
CHOOSING = {
    "exclude_modules": NAMES,
    "layers_to_transform": Values("a list of layer numbers, the first one 0", _layers),
    "layers_pattern": Values("the name of the list of layers, such as layers", lambda value: isinstance(value, str)),
}
# Keys of every kind whose matrices have a rank.
RANKS = {
    "rank_pattern": Values(
        "whole numbers of at least 1 by module name", _by_name(lambda rank: _whole(rank) and rank > 0)
    ),
    "alpha_pattern": Values("numbers above 0 by module name", _by_name(lambda a: isinstance(a, int | float) and a > 0)),
}
LYCORIS = {**CHOOSING, **RANKS, "rank_dropout": DROPOUT, "module_dropout": DROPOUT}

# What every kind that is put into layers takes.
LAYERS = frozenset({"lora_target_modules"})

KINDS = {
    "lora": Kind(
        LAYERS | {"lora_r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora", "init_lora_weights"},
        {**CHOOSING, **RANKS, "bias": Values("none, all or lora_only", ("none", "all", "lora_only").__contains__)},
    ),
    "ia3": Kind(LAYERS, {"exclude_modules": NAMES, "feedforward_modules": NAMES}),
    "loha": Kind(LAYERS | {"lora_r", "lora_alpha"}, LYCORIS),
    "lokr": Kind(
        LAYERS | {"lora_r", "lora_alpha"},
        {
            **LYCORIS,
            "decompose_both": YES_OR_NO,
            "decompose_factor": Values("-1, or a whole number above 0", lambda v: _whole(v) and (v == -1 or v > 0)),
            "rank_dropout_scale": YES_OR_NO,
        },
    ),
    "prompt_tuning": Kind(
        frozenset({"num_virtual_tokens"}),
        {"prompt_tuning_init": Values("RANDOM or SAMPLE_VOCAB", ("RANDOM", "SAMPLE_VOCAB").__contains__)},
    ),
}

# Kinds that PEFT knows and that are not offered → what to do instead.
NOT_OFFERED = {
    "p_tuning": "set peft_type=prompt_tuning: its vectors are learned as they are, without a network that makes them",
    "prefix_tuning": "set peft_type=prompt_tuning: TRL's training has no place for keys and values before the text",
    "adalora": "set peft_type=lora with rank_pattern: its ranks change only under a loop of its own",
    "vera": "set peft_type=lora with lora_r=1: random matrices that all layers share are not merged here",
    "oft": "set peft_type=lora: turned weights are not merged here",
    "no_peft": "set apply_lora=false",
}

# Keys that PEFT knows and that are not given here → where to go instead.
ELSEWHERE = {
    "r": "set lora_r",
    "alpha": "set lora_alpha",
    "lora_alpha": "set lora_alpha",
    "lora_dropout": "set lora_dropout",
    "num_virtual_tokens": "set num_virtual_tokens",
    "prompt_tuning_init_text": "leave it out: a prompt begins as random vectors, or as those of random tokens",
    "target_modules": "set lora_target_modules",
    "peft_type": "set peft_type",
    "use_dora": "set use_dora",
    "use_rslora": "set use_rslora",
    "init_lora_weights": "set init_lora_weights",
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


def kwargs_problems(kind: str, kwargs: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with `peft_kwargs` for a kind of adapter."""
    known = KINDS[kind].kwargs
    for name, value in kwargs.items():
        where = f"peft_kwargs.{name}"
        if name in ELSEWHERE:
            yield Problem("PARAM-E0262", where, shown(value), "a key without a parameter of its own", ELSEWHERE[name])
        elif name not in known:
            others = [other for other, takes in KINDS.items() if name in takes.kwargs]
            fix = f"leave it out, or set peft_type={others[0]}" if others else nearest(name, known) or "leave it out"
            yield Problem("PARAM-E0262", where, f"{name} with peft_type={kind}", f"one of {', '.join(sorted(known))}",
                          fix)  # fmt: skip
        elif not known[name].fits(value):
            yield Problem("PARAM-E0263", where, shown(value), known[name].expected, "correct it, or leave it out")
