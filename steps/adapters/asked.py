"""Checks by the plan of base model and method for the requested adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from steps.errors import Problem
from steps.kinds.adapters import ADAPTER_KINDS, for_every_model, put_into
from steps.kinds.recipe import Recipe
from steps.models.layout import CONV1D_MODELS
from steps.params.pipeline import SupervisedParameters


class Seen(Protocol):
    """The attributes of the plan's view of parameters and model that these checks read."""

    @property
    def parameters(self) -> SupervisedParameters: ...

    @property
    def recipe(self) -> Recipe: ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The model's configuration; empty without a model."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...] | None]:
        """Tensor of the model → shape; None where only the name is known, empty where nothing is."""
        ...

    @property
    def named_by(self) -> str:
        """The parameter that names the model."""
        ...

    @property
    def positions(self) -> int | None:
        """Number of positions of the model; None if it has no limit."""
        ...


def base_problems(seen: Seen) -> Iterator[Problem]:
    """Yield the reasons why this base cannot be tuned with these parameters."""
    p, config, source = seen.parameters, seen.config, seen.named_by
    if "quantization_config" in config:
        method = (config["quantization_config"] or {}).get("quant_method", "unknown method")
        yield Problem("PLAN-E0381", source, f"weights that are already quantised ({method})", "weights in bf16, fp16 "
                      "or fp32", "name the model before quantisation, and set load_in_4bit or load_in_8bit",
                      why="a trained adapter is merged into them")  # fmt: skip
    if not p.apply_lora:
        return
    kind = config.get("model_type", "unknown")
    if not ADAPTER_KINDS[p.peft_type].fits("conv1d") and kind in CONV1D_MODELS:
        yield Problem("PLAN-E0382", "peft_type", f"{p.peft_type} with a model of type {kind}", put_into("conv1d"),
                      "set peft_type=lora",
                      why=f"PEFT does not support {p.peft_type} for the layers of this model")  # fmt: skip
    count = layers(config)
    wanted = p.peft_kwargs.get("layers_to_transform") or []
    if count and isinstance(wanted, list) and any(isinstance(layer, int) and layer >= count for layer in wanted):
        yield Problem("PLAN-E0383", "peft_kwargs.layers_to_transform", str(max(wanted)), f"layers from 0 to "
                      f"{count - 1}, the layers of the model", "correct it")  # fmt: skip


def layers(config: Mapping[str, Any]) -> int:
    """Return the number of layers, of the larger of encoder and decoder; 0 if the configuration does not give it."""
    names = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
    return max(int(config.get(name) or 0) for name in names)


def prompt_problems(seen: Seen) -> Iterator[Problem]:
    """Yield the reasons why this model cannot be tuned with vectors before the text."""
    p, positions = seen.parameters, seen.positions
    kind, taken = ADAPTER_KINDS[p.peft_type], p.virtual_tokens
    learned = seen.recipe.kind.name in kind.heads and seen.recipe.method.takes_prompts
    if p.apply_lora and kind.heads and not learned:
        yield Problem("PLAN-E0384", "peft_type", f"{kind.name} for {p.task}", for_every_model(),
                      "set peft_type=lora", why=kind.why_heads)  # fmt: skip
    if not taken or not positions:
        return
    if taken >= positions // 2:
        yield Problem("PLAN-E0385", "num_virtual_tokens", str(taken), f"less than {positions // 2}, half of the "
                      "model's positions", "lower it", why="the text needs the remaining positions")  # fmt: skip
    elif p.max_seq_length > 0 and p.max_seq_length + taken > positions:
        yield Problem("PLAN-E0385", "max_seq_length", f"{p.max_seq_length} with num_virtual_tokens={taken}",
                      f"at most {positions} together, the model's positions",
                      f"set max_seq_length={positions - taken}")  # fmt: skip
