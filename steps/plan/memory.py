"""Estimate the memory that one training process needs on its device, and decide whether activations are recomputed.

Memory is counted at the moments of a step that can need most, and the largest of them is the estimate:

- at the end of the forward pass: weights, optimizer states, activations (`activations.py`), logits, and what autocast
  holds in 16 bit; with accumulated gradients these too; or, if activations are recomputed, those of one layer then;
- at the end of the backward pass: all gradients, and the activations of one layer;
- while completions are written that rewards judge: their keys and values, and logits;
- while the optimizer updates the weights: gradients, states, and intermediate results (torch's optimizers that update
  all weights at once, "foreach", which is their default on GPUs, hold another float32 of each).

What several processes share is divided in `sharding.py`. docs/memory.md has the formula and how far it is from what
torch measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from steps.kinds.adapters import ADAPTER_KINDS
from steps.kinds.recipe import Recipe
from steps.params.pipeline import SupervisedParameters
from steps.params.quantisation import QuantisationParams
from steps.plan.activations import (
    WIDE,
    Architecture,
    Kept,
    architecture_of,
    backward_bytes,
    boundary_bytes,
    decoder_bytes,
    ends_bytes,
    layer_bytes,
)
from steps.plan.completion_engine import vllm_bytes, writing_bytes
from steps.plan.logits import logits_bytes
from steps.plan.need import GIB
from steps.plan.sharding import ALONE, Sharing, States, shared, zero_shared

HEADROOM = 0.9  # the rest is for the CUDA context, fragmentation and the allocator's rounding
# Bytes per trained parameter beyond the weight itself: gradient and optimizer state in 32 bit.
STATE_BYTES = {
    "adamw_torch": 12, "adamw_torch_fused": 12, "adafactor": 5, "ademamix": 16, "sgd": 4, "adagrad": 8, "rmsprop": 8,
    "grokadamw": 16, "schedule_free_sgd": 8,
}  # fmt: skip
GRADIENT_BYTES = 4  # of STATE_BYTES; a checkpoint has none
# Optimizers of torch that update all weights at once on a GPU, with an intermediate result for each.
FOREACH = {"adamw_torch", "adagrad", "rmsprop"}
STATES = "gradients and optimizer"


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    parts: dict[str, int] = field(default_factory=dict)
    """What there is at the moment that needs most."""
    available: int | None = None
    checkpointing: bool = False
    """Whether activations are recomputed."""
    on_cpu: int = 0
    """Bytes of CPU memory on a node for optimizer states, gradients and weights that are kept there."""
    least: int = 0
    """Bytes that are certainly needed, whatever the rows are."""

    @property
    def needed(self) -> int:
        """Sum of the parts."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether it fits; also if the available memory is not known."""
        return self.available is None or self.needed <= self.available


@dataclass(frozen=True)
class Rows:
    """The tokens of one forward pass of one process."""

    tokens: int
    """Read, or read and written, in padded rows."""
    length: int
    """Of the longest row."""
    written: int = 0
    """Of a separate decoder."""
    written_length: int = 0


def estimate(
    parameters: SupervisedParameters,
    recipe: Recipe,
    config: Mapping[str, Any],
    weights: int,
    max_length: int,
    gpu_memory: float,
    reference: int = 0,
    zero: Mapping[str, Any] | None = None,
    sharing: Sharing = ALONE,
    on_gpu: bool | None = None,
) -> MemoryEstimate:
    """Estimate the memory of training a model of `weights` parameters on a device of `gpu_memory` GiB (0: unknown).

    With gradient_checkpointing=auto, checkpointing is on exactly if the estimate without it does not fit. `zero` is the
    zero_optimization block of a DeepSpeed configuration, `reference` the number of weights of a separate reference
    model, `on_gpu` whether the device is a GPU (None: if the parameters ask for one).
    """
    available = int(gpu_memory * GIB * HEADROOM) or None
    asked = parameters.gradient_checkpointing
    gpu = bool(parameters.number_of_gpu_to_use_finetuning) if on_gpu is None else on_gpu
    engine = vllm_bytes(parameters, gpu, int(gpu_memory * GIB))
    step = TrainingStep(parameters, recipe, config, weights, max_length, reference, zero, sharing, gpu, engine)
    if asked != "auto":
        return step.estimate(asked == "true", available)
    plain = step.estimate(False, available)
    return step.estimate(True, available) if available is not None and plain.needed > available else plain


def trained_weights(parameters: SupervisedParameters, recipe: Recipe, config: Mapping[str, Any], weights: int) -> int:
    """Return the number of trained weights: those of the adapter, or all."""
    if not parameters.apply_lora:
        return weights
    return adapter_parameters(parameters, config, recipe.kind.has_encoder)


def adapter_parameters(parameters: SupervisedParameters, config: Mapping[str, Any], has_encoder: bool = False) -> int:
    """Return the number of weights that an adapter trains, about: in every matrix, or in those that are named."""
    has_encoder = has_encoder or bool(config.get("is_encoder_decoder"))
    a = architecture_of(config, has_encoder)
    named = {name.rsplit(".", 1)[-1] for name in parameters.targets}
    chosen = [shape for name, shape in a.matrices.items() if name in named] or list(a.matrices.values())
    return int(ADAPTER_KINDS[parameters.peft_type].size(parameters, a.hidden, chosen, a.depth))


def checkpoint_bytes(
    parameters: SupervisedParameters,
    recipe: Recipe,
    config: Mapping[str, Any],
    weights: int,
    zero: Mapping[str, Any] | None,
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


class TrainingStep:
    """One training step of one process."""

    def __init__(
        self,
        p: SupervisedParameters,
        recipe: Recipe,
        config: Mapping[str, Any],
        weights: int,
        max_length: int,
        reference: int,
        zero: Mapping[str, Any] | None,
        sharing: Sharing,
        gpu: bool,
        engine: int,
    ):
        self.p, self.recipe, self.config, self.gpu, self.engine = p, recipe, config, gpu, engine
        self.shape = architecture_of(config, recipe.kind.has_encoder)
        self.kept = Kept(p.precision == "16", p.apply_lora, p.attn_implementation == "eager", gpu)
        self.rows = _rows(p, recipe, max_length)
        self.whole = self.states(weights)
        states = STATE_BYTES.get(p.optim, 12)
        self.held = zero_shared(self.whole, zero, sharing, states) if zero else shared(self.whole, sharing)
        self.reference = _reference(p, recipe, weights, reference)
        if sharing.strategy == "fsdp":
            self.reference //= sharing.shards  # TRL shards it as the model

    def estimate(self, recompute: bool, available: int | None) -> MemoryEstimate:
        """Return the estimate of the moment that needs most."""
        largest = max(self.moments(recompute), key=lambda parts: sum(parts.values()))
        parts = {name: size for name, size in largest.items() if size}
        # An optimizer that is not known is counted as if it were AdamW; gradients are certain.
        states = self.held.optimizer if self.p.optim in STATE_BYTES else 0
        least = self.held.weights + self.held.gradients + states + self.reference + self.engine
        return MemoryEstimate(parts, available, recompute, self.held.on_cpu, least)

    def moments(self, recompute: bool) -> list[dict[str, int]]:
        """Return the parts at each moment that can need most."""
        moments = [self._after_forward(recompute), self._after_backward(), self._at_update(), self._writing()]
        return [*moments, self._at_last_layer()] if recompute else moments

    def always(self) -> dict[str, int]:
        """Return the parts that are there at every moment."""
        held = self.held
        return {
            "weights": held.weights,
            "reference model": self.reference,
            "vLLM": self.engine,
            STATES: held.optimizer,
            "gathered layers": held.gathered,
            "communication": held.communication,
        }

    def _after_forward(self, recompute: bool) -> dict[str, int]:
        """At the end of the forward pass, and the beginning of the backward pass: the loss and its gradient."""
        parts, held = self.always(), self.held
        if self.p.gradient_accumulation_steps > 1:
            parts[STATES] += held.gradients
        written = self.rows.written or self.rows.tokens
        saved = self._boundaries() if recompute else self._all_layers()
        parts["weights in 16 bit"] = held.copies
        parts["activations"] = saved + ends_bytes(self.shape, self.kept, written)
        parts["logits"] = self.logits(written)
        return parts

    def logits(self, written: int) -> int:
        """Return the bytes of the logits of as many tokens, and of their loss and its gradients."""
        return logits_bytes(self.recipe, self.shape, self.kept, written, self.rows.tokens)

    def _at_last_layer(self) -> dict[str, int]:
        """While the activations of the last layer are computed again: those of the others are not there yet."""
        parts, held = self.always(), self.held
        parts[STATES] += held.gradients if self.p.gradient_accumulation_steps > 1 else 0
        parts["activations"] = (
            self._boundaries() + self._layer() + backward_bytes(self.shape, self.kept, self.rows.tokens)
        )
        return parts

    def _after_backward(self) -> dict[str, int]:
        parts, held = self.always(), self.held
        parts[STATES] += held.gradients
        parts["activations"] = self._layer() + backward_bytes(self.shape, self.kept, self.rows.tokens)
        layers = max(self.shape.layers + self.shape.decoder_layers, 1)
        parts["weights in 16 bit"] = held.copies // layers
        return parts

    def _at_update(self) -> dict[str, int]:
        parts, held = self.always(), self.held
        parts[STATES] += held.gradients
        parts["gathered layers"] = 0
        parts["optimizer's update"] = held.step
        return parts

    def _writing(self) -> dict[str, int]:
        """While the model writes completions, with nothing kept for a backward pass; else an empty moment."""
        written = writing_bytes(self.p, self.shape, self.kept.width, self.gpu)
        return {**self.always(), **written} if written else {}

    def _layer(self) -> int:
        """Bytes of the activations of the largest layer."""
        rows = self.rows
        read = layer_bytes(self.shape, self.kept, rows.tokens, rows.length)
        if not rows.written:
            return read
        return max(read, self._decoder_layer())

    def _decoder_layer(self) -> int:
        rows = self.rows
        return decoder_bytes(self.shape, self.kept, rows.written, rows.written_length, rows.tokens, rows.length)

    def _all_layers(self) -> int:
        rows, shape = self.rows, self.shape
        read = shape.layers * layer_bytes(shape, self.kept, rows.tokens, rows.length)
        return read + (shape.decoder_layers * self._decoder_layer() if rows.written else 0)

    def _boundaries(self) -> int:
        rows, shape = self.rows, self.shape
        read = shape.layers * boundary_bytes(shape, self.kept, rows.tokens)
        return read + (shape.decoder_layers * boundary_bytes(shape, self.kept, rows.written))

    def states(self, weights: int) -> States:
        """Return what a process alone would hold, as stored and computed with here."""
        p, shape, width = self.p, self.shape, self.kept.width
        trained = trained_weights(p, self.recipe, self.config, weights)
        states = STATE_BYTES.get(p.optim, 12)
        frozen_width = width if p.apply_lora else WIDE
        stored = stored_bytes(p, shape, self.config, weights, frozen_width) + (trained * WIDE if p.apply_lora else 0)
        layers = shape.layers + shape.decoder_layers
        inside = min(weights, int(shape.depth * _count(shape)))
        layer = min(weights, shape.layer_weights) if layers else 0
        largest = max([inputs * outputs for inputs, outputs in shape.matrices.values()] + [0 if p.apply_lora else
                      shape.hidden * shape.vocabulary])  # fmt: skip
        at_once = trained * WIDE if self.gpu and p.optim in FOREACH else 0
        one_by_one = 2 * WIDE * min(trained, largest) if not self.gpu and p.optim != "sgd" else 0
        return States(
            weights=stored,
            gradients=trained * GRADIENT_BYTES,
            optimizer=trained * (states - GRADIENT_BYTES),
            step=at_once + one_by_one,
            copies=2 * inside if self.kept.half and not p.apply_lora else 0,
            count=weights,
            trained=trained,
            layer=layer,
            outside=weights - inside,
            hidden=shape.hidden,
            width=width,
        )


def _rows(p: SupervisedParameters, recipe: Recipe, max_length: int) -> Rows:
    sequences = p.per_device_train_batch_size * recipe.method.answers_per_row
    length = max_length + p.virtual_tokens
    if not recipe.kind.has_encoder:
        return Rows(sequences * length, length)
    answer = getattr(p, "max_target_length", max_length)
    return Rows(sequences * length, length, sequences * answer, answer)


def _count(shape: Architecture) -> int:
    return sum(inputs * outputs for inputs, outputs in shape.matrices.values())


def _reference(parameters: SupervisedParameters, recipe: Recipe, weights: int, own: int) -> int:
    """Bytes of the reference model: a copy of the initial weights, or another model with `own` weights."""
    if recipe.method.rewarded:  # TRL's copy of the initial weights, or the model without its adapter
        return weights * 4 if getattr(parameters, "beta", 0) and not parameters.apply_lora else 0
    if not recipe.method.asks_reference or getattr(parameters, "precompute_ref_log_probs", False):
        return 0
    if own:
        half = parameters.precision == "16" and parameters.apply_lora
        return own * (2 if half else 4)
    return 0 if parameters.apply_lora else weights * 4


def stored_bytes(
    parameters: QuantisationParams, shape: Architecture, config: Mapping[str, Any], weights: int, usual: int
) -> int:
    """Bytes of the base weights: `usual` per weight, fewer if quantised; embeddings are never quantised.

    A quantised matrix is multiplied in the type of computation, so that one of them exists in it at a time.
    """
    if not parameters.bits:
        return weights * usual
    matrices = 1 if config.get("tie_word_embeddings", True) else 2
    kept = min(weights, matrices * shape.hidden * shape.vocabulary)
    # A block of 64 4-bit weights has a 32-bit scale; with double quantisation, 8 bits plus 1/256 of 32 bits.
    scale = 0.0 if parameters.bits == 8 else (1 + 4 / 256) / 64 if parameters.bnb_4bit_use_double_quant else 4 / 64
    return int(kept * usual + (weights - kept) * (parameters.bits / 8 + scale))
