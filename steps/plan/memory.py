"""Estimate the memory of training, compare it with the device, and decide whether activations are recomputed.

Weights, gradients and optimizer states are counted exactly; activations after Korthikanti et al. 2022 (34·s·b·h bytes
per layer in 16 bit, attention without the quadratic term), logits in 32 bit. Accurate to about 25%.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from steps.errors import Problem
from steps.kinds.adapters import ADAPTER_KINDS
from steps.kinds.recipe import Recipe
from steps.params.pipeline import SupervisedParameters
from steps.plan.hardware import NO_POOL, Hardware
from steps.plan.lengths import longest
from steps.plan.machine import gpu_memory_here, memory_here
from steps.plan.need import GIB
from steps.plan.seen import Seen, runs_here

HEADROOM = 0.9  # the rest is for the CUDA context, fragmentation and the allocator's rounding
# Bytes per trained parameter beyond the weight itself: gradient and optimizer state in 32 bit.
STATE_BYTES = {
    "adamw_torch": 12, "adamw_torch_fused": 12, "adafactor": 5, "ademamix": 16, "sgd": 4, "adagrad": 8, "rmsprop": 8,
    "grokadamw": 16, "schedule_free_sgd": 8,
}  # fmt: skip
GRADIENT_BYTES = 4  # of STATE_BYTES; a checkpoint has none
LOGIT_TOKENS = 4096  # TRL computes the loss in tiles of this number of tokens


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    parts: dict[str, int] = field(default_factory=dict)
    available: int | None = None
    checkpointing: bool = False
    """Whether activations are recomputed."""
    on_cpu: int = 0
    """Bytes of CPU memory that DeepSpeed uses for offloaded optimizer states and weights."""

    @property
    def needed(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    def least(self, optim: str) -> int:
        """Return the bytes that are needed whatever the rows are: without activations and logits."""
        states = self.parts["gradients and optimizer"]
        if optim not in STATE_BYTES:  # counted as if it were AdamW; gradients are certain
            states = states * 4 // 12
        return self.parts["weights"] + states + self.parts.get("reference model", 0)


@dataclass(frozen=True)
class Room:
    """Memory for training."""

    bytes: int
    """0 if unknown."""
    what: str
    parameter: str
    """The parameter that chooses it."""


def estimate(
    parameters: SupervisedParameters,
    recipe: Recipe,
    config: dict[str, Any],
    weights: int,
    max_length: int,
    gpu_memory: float,
    reference: int = 0,
    zero: dict[str, Any] | None = None,
) -> MemoryEstimate:
    """Estimate the memory of training a model of `weights` parameters on a device of `gpu_memory` GiB (0: unknown).

    With gradient_checkpointing=auto, checkpointing is on exactly if the estimate without it does not fit. `zero` is the
    zero_optimization block of a DeepSpeed configuration, `reference` the number of weights of a separate reference
    model.
    """
    available = int(gpu_memory * GIB * HEADROOM) or None
    asked = parameters.gradient_checkpointing
    given = (parameters, recipe, config, weights, max_length)
    kept, recomputed = (_parts(*given, recompute=recompute) for recompute in (False, True))
    changes, on_cpu = _zero_parts(parameters, config, weights, zero) if zero else ({}, 0)
    changes |= _reference(parameters, recipe, weights, reference)
    plain = MemoryEstimate(kept | changes, available, False, on_cpu)
    saving = MemoryEstimate(recomputed | changes, available, True, on_cpu)
    if asked != "auto":
        return saving if asked == "true" else plain
    return saving if available is not None and plain.needed > available else plain


def seen_estimate(seen: Seen) -> tuple[MemoryEstimate, Room] | None:
    """Estimate the memory of the run that the plan has seen, and say where it has room; None without a model."""
    model, p = seen.model, seen.parameters
    if model is None or "finetune" not in seen.hardware:
        return None
    room = room_of(p, seen.hardware["finetune"])
    needs = estimate(
        p,
        seen.recipe,
        model.layout.config,
        model.parameters,
        longest(p, seen.recipe, model),
        gpu_memory=room.bytes / GIB,
        reference=seen.reference.parameters if seen.reference else 0,
        zero=seen.zero.config["zero_optimization"] if seen.zero else None,
    )
    return needs, room


def seen_checkpoint(seen: Seen) -> int:
    """Return the size of a checkpoint of the run that the plan has seen, about; 0 without a model."""
    if seen.model is None:
        return 0
    zero = seen.zero.config["zero_optimization"] if seen.zero else None
    config = seen.model.layout.config
    return checkpoint_bytes(seen.parameters, seen.recipe, config, seen.model.parameters, zero)


def room_of(p: SupervisedParameters, hardware: Hardware) -> Room:
    """Return the memory that training may use: of the machine that was asked for, or of this one in a local run."""
    if runs_here() and not is_asked_for(p):
        return room_here(p)
    if p.number_of_gpu_to_use_finetuning:
        return Room(hardware.gpu_memory * GIB, "one GPU of instance_type_finetune", "instance_type_finetune")
    return Room(hardware.memory_gib * GIB, "instance_type_finetune", "instance_type_finetune")


def room_here(p: SupervisedParameters) -> Room:
    """Return the memory of this machine's GPU, if there is one and it is used; else that of its processors."""
    if p.number_of_gpu_to_use_finetuning and (size := gpu_memory_here()):
        return Room(size, "this machine's GPU", "number_of_gpu_to_use_finetuning")
    return Room(memory_here(), "this machine", "number_of_gpu_to_use_finetuning")


def is_asked_for(p: SupervisedParameters) -> bool:
    """Return whether a machine was named, so that a plan made on this machine is for that one."""
    usual = type(p).model_fields["instance_type_finetune"].default
    return p.instance_type_finetune != usual or p.compute_finetune not in NO_POOL


def memory_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse a training whose weights, gradients and optimizer states alone exceed the memory."""
    found = seen_estimate(seen)
    if not found or not found[1].bytes:
        return
    needs, room = found
    least = needs.least(seen.parameters.optim)
    if least > room.bytes:
        larger = "name a larger instance_type_finetune" if room.parameter == "instance_type_finetune" else \
            "train on another machine (and plan for it with instance_type_finetune)"  # fmt: skip
        smaller = "" if seen.parameters.apply_lora else "set apply_lora=true, or "
        yield Problem("PLAN-E0365", room.parameter,
                      f"{least / GIB:.1f} GiB of weights, gradients and optimizer states for the "
                      f"{room.bytes / GIB:.1f} GiB of {room.what}", "room for them, and for activations besides",
                      f"{smaller}{larger}")  # fmt: skip


def memory_notes(seen: Seen) -> Iterator[str]:
    """Warn if the memory, or CPU memory for offloading, is probably too small."""
    found = seen_estimate(seen)
    if found is None:
        return
    needs, room = found
    p, hardware = seen.parameters, seen.hardware["finetune"]
    rooms = [room, room_here(p)] if runs_here() and is_asked_for(p) else [room]
    for one in rooms:
        usable = int(one.bytes * HEADROOM)
        if usable and needs.needed > usable:
            yield (
                f"finetune is expected to need {needs.needed / GIB:.1f} GiB, but {usable / GIB:.1f} GiB of {one.what} "
                "are usable: lower per_device_train_batch_size or max_seq_length"
                f"{'' if p.apply_lora else ', or set apply_lora=true'}"
            )
    there = hardware.memory_gib
    if not runs_here() and needs.on_cpu >= there * GIB:  # offloaded states must fit into CPU memory
        yield (f"DeepSpeed offloads {needs.on_cpu / GIB:.0f} GiB to CPU memory, but finetune has {there} GiB: "
               "choose a larger instance_type_finetune")  # fmt: skip


def _parts(
    parameters: SupervisedParameters,
    recipe: Recipe,
    config: dict[str, Any],
    weights: int,
    max_length: int,
    recompute: bool,
) -> dict[str, int]:
    half = parameters.precision == "16"
    hidden = _hidden(config)
    layers = config.get("num_hidden_layers") or config.get("n_layer") or 0
    sequences = parameters.per_device_train_batch_size * recipe.method.answers_per_row
    written = tokens = sequences * (max_length + parameters.virtual_tokens)
    if recipe.kind.has_encoder:
        written = parameters.per_device_train_batch_size * getattr(parameters, "max_target_length", max_length)
        encoding, decoding = encoder_and_decoder(config)
        # A decoder layer has two attention blocks. Counted in encoder layers, whose input has more tokens.
        layers = encoding + decoding * 4 / 3 * written / tokens
    trained = trained_weights(parameters, recipe, config, weights)
    weight_bytes = 2 if half and parameters.apply_lora else 4
    per_layer = tokens * hidden * (34 if half else 68)
    kept = int(layers * tokens * hidden * (2 if half else 4) + per_layer if recompute else layers * per_layer)
    return {
        "weights": _stored(parameters, config, hidden, weights, weight_bytes)
        + (trained * 4 if parameters.apply_lora else 0),
        "gradients and optimizer": trained * STATE_BYTES.get(parameters.optim, 12),
        "activations": kept,
        "logits": _logits(recipe, config, written),
    }


def trained_weights(parameters: SupervisedParameters, recipe: Recipe, config: dict[str, Any], weights: int) -> int:
    """Return the number of trained weights: those of the adapter, or all."""
    if not parameters.apply_lora:
        return weights
    blocks = config.get("num_hidden_layers") or config.get("n_layer") or 0
    if recipe.kind.has_encoder:
        encoding, decoding = encoder_and_decoder(config)
        blocks = encoding + decoding * 4 / 3
    return _adapter_size(parameters, config, _hidden(config), blocks)


def checkpoint_bytes(
    parameters: SupervisedParameters, recipe: Recipe, config: dict[str, Any], weights: int, zero: dict[str, Any] | None
) -> int:
    """Return the size of a checkpoint: the trained weights and the states of their optimizer, without tokenizer.

    DeepSpeed saves the weights as it holds them, once more in 32 bit, and the Trainer saves them for itself, which is
    the only copy with ZeRO-3.
    """
    states = 4 + STATE_BYTES.get(parameters.optim, 12) - GRADIENT_BYTES
    if zero:
        width = 2 if parameters.precision == "16" else 4
        states += width * (1 if zero["stage"] == 3 else 2)
    return trained_weights(parameters, recipe, config, weights) * states


def encoder_and_decoder(config: dict[str, Any]) -> tuple[int, int]:
    """Return the number of encoder and decoder layers, whose keys differ between T5 and BART."""
    encoding = config.get("encoder_layers") or config.get("num_layers") or config.get("num_hidden_layers") or 0
    return encoding, config.get("decoder_layers") or config.get("num_decoder_layers") or encoding


def _reference(parameters: SupervisedParameters, recipe: Recipe, weights: int, own: int) -> dict[str, int]:
    """Bytes of the reference model: a copy of the initial weights, or another model with `own` weights."""
    if not recipe.method.asks_reference or getattr(parameters, "precompute_ref_log_probs", False):
        return {}
    if own:
        half = parameters.precision == "16" and parameters.apply_lora
        return {"reference model": own * (2 if half else 4)}
    return {} if parameters.apply_lora else {"reference model": weights * 4}


def _logits(recipe: Recipe, config: dict[str, Any], tokens: int) -> int:
    """Bytes of logits and their gradients; 0 for models without logits over the vocabulary."""
    if not recipe.kind.logits_over_vocabulary:
        return 0
    held = tokens if recipe.method.whole_logits else min(tokens, LOGIT_TOKENS)
    return held * (config.get("vocab_size") or 0) * 4 * 2


def _stored(parameters: SupervisedParameters, config: dict[str, Any], hidden: int, weights: int, usual: int) -> int:
    """Bytes of the base weights: `usual` per weight, fewer if quantised; embeddings are never quantised."""
    matrices = 1 if config.get("tie_word_embeddings", True) else 2
    kept = min(weights, matrices * hidden * (config.get("vocab_size") or 0))
    if not parameters.bits:
        return weights * usual
    # A block of 64 4-bit weights has a 32-bit scale; with double quantisation, 8 bits plus 1/256 of 32 bits.
    scale = 0.0 if parameters.bits == 8 else (1 + 4 / 256) / 64 if parameters.bnb_4bit_use_double_quant else 4 / 64
    return int(kept * usual + (weights - kept) * (parameters.bits / 8 + scale))


def _zero_parts(
    parameters: SupervisedParameters, config: dict[str, Any], weights: int, zero: dict[str, Any]
) -> tuple[dict[str, int], int]:
    """Return the GPU bytes of the parts that ZeRO changes on a single GPU, and the bytes offloaded to the CPU.

    Without offloading, one GPU needs as much as without ZeRO. The offloaded optimizer has a copy of the trained
    weights, their gradients and its states, all in 32 bit; gradients are on the GPU in buckets.
    """
    moved = {name for name in ("offload_optimizer", "offload_param") if (zero.get(name) or {}).get("device") == "cpu"}
    lora, width = parameters.apply_lora, 2 if parameters.precision == "16" else 4
    adapter = _adapter_size(parameters, config, _hidden(config), config.get("num_hidden_layers") or 0) if lora else 0
    trained = adapter if lora else weights
    changes: dict[str, int] = {}
    on_cpu = 0
    if "offload_optimizer" in moved:
        hidden, bucket = _hidden(config), zero.get("reduce_bucket_size", 500_000_000)
        bucket = hidden * hidden if bucket == "auto" else int(bucket)
        kept = trained if zero["stage"] < 2 else min(trained, bucket)
        changes["gradients and optimizer"] = kept * width
        changes["weights"] = _stored(parameters, config, _hidden(config), weights, width) + adapter * width
        on_cpu += trained * (4 + STATE_BYTES.get(parameters.optim, 12))
    if "offload_param" in moved:
        live = zero.get("stage3_max_live_parameters", 1_000_000_000)
        changes["weights"] = min(weights + adapter, int(live)) * width
        on_cpu += (weights + adapter) * width
    return changes, on_cpu


def adapter_parameters(parameters: SupervisedParameters, config: Mapping[str, Any]) -> int:
    """Return the number of weights that an adapter trains, about."""
    known = dict(config)
    layers = known.get("num_hidden_layers") or known.get("n_layer") or sum(encoder_and_decoder(known))
    return _adapter_size(parameters, known, _hidden(known), layers)


def _hidden(config: dict[str, Any]) -> int:
    return int(config.get("hidden_size") or config.get("n_embd") or config.get("d_model") or 0)


def _adapter_size(parameters: SupervisedParameters, config: dict[str, Any], hidden: int, layers: float) -> int:
    """Number of adapter parameters for Llama-like blocks: four attention layers and three MLP layers."""
    wide = config.get("intermediate_size") or config.get("d_ff") or config.get("encoder_ffn_dim") or 4 * hidden
    shapes = [*[(hidden, hidden)] * 4, *[(hidden, wide)] * 2, (wide, hidden)]
    return int(ADAPTER_KINDS[parameters.peft_type].size(parameters, hidden, shapes, layers))
