"""Estimate the memory of one GPU in a training with verl 0.9.1, by the moments of steps/plan/memory.py.

Read in verl's source, and never measured:

- The trained model and the critic are loaded in float32, also below an adapter, and divided over all GPUs by FSDP. It
  computes in bfloat16 and sums gradients in float32 (verl.workers.engine.fsdp.transformer_impl: FSDPEngine).
- With actor_fsdp_config_offload_policy (fsdp2) their shares are always in CPU memory; with actor_fsdp_param_offload and
  actor_fsdp_optimizer_offload only while they are not computed with.
- A separate reference is always in CPU memory, in both strategies (forward_only); with an adapter there is none.
- What writes completions takes rollout_gpu_memory_utilization of the GPU at all times, with rollout_free_cache_engine
  only while it writes.
- The logits of all tokens of a micro-batch exist as a whole, as no fused kernels are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from steps.errors import Problem
from steps.kinds.recipe import Recipe
from steps.params.verl import VerlParams
from steps.params.verl_training import VerlTrainingParameters
from steps.plan.activations import WIDE, backward_bytes
from steps.plan.memory import GRADIENT_BYTES, HEADROOM, STATE_BYTES, MemoryEstimate, Rows, TrainingStep
from steps.plan.need import GIB
from steps.plan.room import room_of
from steps.plan.seen import Seen
from steps.plan.sharding import ALONE, Sharing, States, sharded
from steps.plan.verl import Step, asked

ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
CRITIC = "critic"
# Tensors of tokens × vocabulary in 16 bit. In an update: logits, their log-probabilities and gradients (with
# FlashAttention's loss, which the image lacks, only the logits), and gradients of the entropy, whose other operations
# are compiled into one. Before it, without gradients, the logits. A temperature other than 1 makes another copy.
IN_UPDATE, OF_ENTROPY, BEFORE_UPDATE, OF_TEMPERATURE = 3, 1, 1, 1
ROLLOUT_WIDTH = {"float16": 2, "bfloat16": 2, "float32": 4}


def verl_estimate(
    p: VerlTrainingParameters,
    recipe: Recipe,
    config: Mapping[str, Any],
    weights: int,
    max_length: int,
    gpu_memory: int,
) -> MemoryEstimate:
    """Estimate what a GPU of `gpu_memory` bytes (0: unknown) holds in a training of a model of `weights` weights."""
    return VerlStep(p, recipe, config, weights, max_length, gpu_memory).estimated(int(gpu_memory * HEADROOM) or None)


def verl_sharing(p: VerlParams) -> Sharing:
    """Return how the GPUs share the models."""
    offload = p.actor_strategy == "fsdp2" and p.actor_fsdp_config_offload_policy
    return Sharing("fsdp", Step.of(p).gpus, max(1, p.gpus_per_node), offload=offload)


class VerlStep(TrainingStep):
    """One step of verl on one GPU: completions are written, judged, and learned from."""

    def __init__(
        self,
        p: VerlTrainingParameters,
        recipe: Recipe,
        config: Mapping[str, Any],
        weights: int,
        max_length: int,
        gpu_memory: int,
    ):
        engine = int(p.rollout_gpu_memory_utilization * gpu_memory)
        super().__init__(p, recipe, config, weights, max_length, 0, None, ALONE, True, engine)
        self.asked, self.count, self.max_length = p, weights, max_length
        self.sharing = verl_sharing(p)
        self.reference = 0  # in CPU memory
        self.held = sharded(self.whole, self.sharing)
        self.critic = sharded(_all_trained(self.whole, weights), self.sharing) if p.with_critic else None

    def states(self, weights: int) -> States:
        """Return what one process alone would hold: the weights in float32, also those that are not trained."""
        made = super().states(weights)
        adapter = made.trained if self.p.apply_lora else 0
        return replace(made, weights=(weights + adapter) * WIDE)

    def estimated(self, available: int | None) -> MemoryEstimate:
        """Return the estimate of the moment that needs most, with what is kept in CPU memory."""
        made = self.estimate(self.asked.actor_model_enable_gradient_checkpointing, available)
        models = [self.held, *([self.critic] if self.critic else [])]
        between = sum(self._between(model) for model in models)
        engine = sum(self._engine().values())
        # In the update of each of them the other one is there as far as it is not moved to the CPU.
        updates = [between - self._between(model) + model.least + engine for model in models]
        return replace(made, on_cpu=self._on_cpu(models), least=max(*updates, between + self.engine))

    def moments(self, recompute: bool) -> list[dict[str, int]]:
        """Return the parts at each moment: in an update, before it, of the critic, while completions are written."""
        moments = super().moments(recompute)
        moments.append(self._before_update())
        if self.critic:
            moments.append(self._critic_update(self.critic, recompute))
        return [*moments, self._rollout()]

    def always(self) -> dict[str, int]:
        """Return the parts that are there in an update of the model."""
        return {**super().always(), "vLLM": 0, **self._engine(), **self._of_critic()}

    def logits(self, written: int) -> int:
        """Return the bytes of the logits of an update."""
        return self._copies(IN_UPDATE + (OF_ENTROPY if self.asked.actor_entropy_coeff else 0), written)

    def _copies(self, copies: int, tokens: int) -> int:
        copies += OF_TEMPERATURE if self.asked.rollout_temperature != 1 else 0
        return copies * tokens * self.shape.vocabulary * self.kept.width

    def _engine(self) -> dict[str, int]:
        return {} if self.asked.rollout_free_cache_engine else {ENGINES[self.asked.rollout]: self.engine}

    def _of_critic(self) -> dict[str, int]:
        return {CRITIC: self._between(self.critic)} if self.critic else {}

    def _between(self, model: States) -> int:
        """Return the bytes of a model on the GPU while it is not computed with."""
        weights = 0 if self.asked.actor_fsdp_param_offload else model.weights
        return weights + (0 if self.asked.actor_fsdp_optimizer_offload else model.optimizer)

    def _before_update(self) -> dict[str, int]:
        """While the probabilities of the completions are computed, by the model or by the reference."""
        tokens = self.asked.rollout_log_prob_micro_batch_size_per_gpu * self.max_length
        layer = backward_bytes(self.shape, self.kept, tokens)  # one layer's results, about as large as its gradients
        parts = {**self.always(), "communication": 0, "activations": layer}
        return {**parts, "logits": self._copies(BEFORE_UPDATE, tokens)}

    def _critic_update(self, critic: States, recompute: bool) -> dict[str, int]:
        """While the critic learns; it has a value in place of a vocabulary, and batches by tokens."""
        tokens = max(self.asked.critic_max_token_len_per_gpu, self.max_length)
        own, self.rows = self.rows, Rows(tokens, self.max_length)
        layers = self._boundaries() + self._layer() if recompute else self._all_layers()
        self.rows = own
        held = critic.weights + critic.optimizer + critic.gradients + critic.gathered + critic.communication
        between = {"weights": self._between(self.held)}
        return {**between, **self._engine(), CRITIC: held, "activations": layers}

    def _rollout(self) -> dict[str, int]:
        parts = {"weights": self._between(self.held), **self._of_critic()}
        return {**parts, ENGINES[self.asked.rollout]: self.engine}

    def _on_cpu(self, models: list[States]) -> int:
        """Return the bytes in the CPU memory of a node: what is always there, or moved there."""
        p, here = self.asked, self.sharing.per_node
        moved = 0
        for model in models:
            moved += model.on_cpu
            moved += model.weights * here if p.actor_fsdp_param_offload else 0
            moved += model.optimizer * here if p.actor_fsdp_optimizer_offload else 0
        kl = p.actor_use_kl_loss or p.algorithm_use_kl_in_reward
        reference = self.count * WIDE * here // self.sharing.processes if kl and not p.actor_model_lora_rank else 0
        return moved + reference


def _all_trained(whole: States, weights: int) -> States:
    """Return what a model of which every weight is trained holds; the adapter is the model's alone."""
    states = STATE_BYTES["adamw_torch"] - GRADIENT_BYTES
    sizes = {"weights": WIDE, "gradients": GRADIENT_BYTES, "optimizer": states, "step": WIDE}
    return replace(whole, trained=weights, **{name: weights * size for name, size in sizes.items()})


def rollout_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse a share of the GPU that does not hold the weights of the copy that writes completions."""
    p, model = asked(seen.parameters), seen.model
    if p is None or model is None or "finetune" not in seen.hardware:
        return
    room = room_of(seen.parameters, seen.hardware["finetune"])
    own = model.parameters * ROLLOUT_WIDTH[p.rollout_dtype] // p.rollout_tensor_model_parallel_size
    share = int(room.bytes * p.rollout_gpu_memory_utilization)
    if room.bytes and own > share:
        enough = -(-own * 100 // room.bytes) / 100 + 0.05
        more = f"set rollout_gpu_memory_utilization={enough:.2f} or more, or " if enough < 0.95 else ""
        yield Problem("PLAN-E0545", "rollout_gpu_memory_utilization",
                      f"{p.rollout_gpu_memory_utilization:g}, {share / GIB:.1f} GiB of {room.what}",
                      f"more than {own / GIB:.1f} GiB", f"{more}raise rollout_tensor_model_parallel_size to share a "
                      f"copy among more GPUs, or {room.parameter} for larger ones",
                      why=f"{ENGINES[p.rollout]} holds its copy of the weights there, and then its cache")  # fmt: skip


def verl_changes(p: VerlParams) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield changes that need less memory, in words and as parameters, the least costly first."""
    if not p.rollout_free_cache_engine:
        yield "rollout_free_cache_engine=true", {"rollout_free_cache_engine": True}
    if not p.actor_model_enable_gradient_checkpointing:
        name = "actor_model_enable_gradient_checkpointing"
        yield f"{name}=true", {name: True}
    if not verl_sharing(p).offload:
        changes: dict[str, Any] = {"actor_strategy": "fsdp2", "actor_fsdp_config_offload_policy": True}
        yield _words({name: value for name, value in changes.items() if value != getattr(p, name)}), changes
    if smaller := smallest_batches(p):
        yield _words(smaller), smaller
    for share in (0.5, 0.4, 0.3):
        if share < p.rollout_gpu_memory_utilization:
            yield f"rollout_gpu_memory_utilization={share}", {"rollout_gpu_memory_utilization": share}


def smallest_batches(p: VerlParams) -> dict[str, Any]:
    """Return micro-batches of one completion, where they are larger; they change memory and no result."""
    names = ("actor_ppo_micro_batch_size_per_gpu", "rollout_log_prob_micro_batch_size_per_gpu")
    return {name: 1 for name in names if getattr(p, name) > 1}


def all_changes(p: VerlParams) -> tuple[str, dict[str, Any]]:
    """Return the changes that need no other machine, together."""
    changes = {
        "rollout_free_cache_engine": True, "actor_model_enable_gradient_checkpointing": True, "actor_strategy": "fsdp2",
        "actor_fsdp_config_offload_policy": True, **smallest_batches(p),
    }  # fmt: skip
    wanted = {name: value for name, value in changes.items() if value != getattr(p, name)}
    return f"{_words(wanted)} together", wanted


def _words(changes: dict[str, Any]) -> str:
    told = [f"{name}={value if isinstance(value, str) else str(value).lower()}" for name, value in changes.items()]
    return ", ".join(told[:-1]) + (" and " if told[:-1] else "") + told[-1]
