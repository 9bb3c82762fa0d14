"""How several processes divide weights, gradients and optimizer states, and what dividing them needs in turn.

Sharded parts are divided by the number of processes (Rajbhandari et al. 2020, arXiv 1910.02054, section 5). DDP keeps a
second copy of the gradients in its buckets (`gradient_as_bucket_view` is off in accelerate). FSDP2 holds the gathered
weights of two layers, the one that computes and the next one, a buffer to gather into, and the gradients of a layer
before and after they are summed; what is outside of the layers (embeddings, head) stays gathered, as its own module is
not freed after the forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from steps.params.pipeline import SupervisedParameters

Strategy = Literal["ddp", "fsdp"]
GATHERED_UNITS = 3  # layers: the one that computes, the next one, and the buffer that the next one arrives in
REDUCED_UNITS = 2  # the gradients of a layer, and the buffer that they are summed in


@dataclass(frozen=True)
class Sharing:
    """The processes that train one model together."""

    strategy: Strategy = "ddp"
    processes: int = 1
    """On all nodes."""
    per_node: int = 1
    reshard: bool = True
    """Whether fsdp frees the gathered weights of a layer after its forward pass."""
    offload: bool = False
    """Whether fsdp keeps its shards in CPU memory."""

    @property
    def shards(self) -> int:
        """The number by which the parts are divided."""
        return self.processes if self.strategy == "fsdp" else 1


ALONE = Sharing()


@dataclass(frozen=True)
class States:
    """Bytes of what a training holds whatever its rows are, and the numbers that follow from the model."""

    weights: int
    """As stored: frozen ones in their type, trained ones in float32."""
    gradients: int
    optimizer: int
    step: int
    """Of the optimizer's intermediate results while it updates the weights."""
    copies: int
    """Of trained weights in 16 bit, which autocast makes in every forward pass."""
    count: int
    """Number of weights, frozen and trained."""
    trained: int
    layer: int
    """Number of weights of the largest layer."""
    outside: int
    """Number of weights outside of the layers: embeddings and head."""
    hidden: int
    """Hidden size."""
    width: int
    """Bytes of a weight in computation."""
    gathered: int = 0
    communication: int = 0
    on_cpu: int = 0
    """In the CPU memory of a node, of all its processes."""

    @property
    def least(self) -> int:
        """Bytes without which no step can be done."""
        return self.weights + self.gradients + self.optimizer


def sharing_of(p: SupervisedParameters, strategy: Strategy) -> Sharing:
    """Return how the processes that the parameters ask for share a model."""
    return Sharing(
        strategy=strategy if p.devices > 1 else "ddp",
        processes=p.devices,
        per_node=p.processes_per_node,
        reshard=p.fsdp_reshard_after_forward,
        offload=p.fsdp_cpu_offload,
    )


def shared(whole: States, sharing: Sharing) -> States:
    """Return what one of the processes holds; `whole` is what one alone would."""
    if sharing.processes == 1:
        return whole
    if sharing.strategy == "ddp":
        return replace(whole, communication=whole.gradients)
    return sharded(whole, sharing)


def sharded(whole: States, sharing: Sharing) -> States:
    """Return what one of the processes holds with FSDP, also if it is the only one."""
    n, width = sharing.processes, whole.width
    learned = whole.trained / max(whole.count, 1)
    parts = {name: getattr(whole, name) // n for name in ("weights", "gradients", "optimizer", "step")}
    layers = GATHERED_UNITS * whole.layer if sharing.reshard else whole.count - whole.outside + whole.layer
    made = replace(
        whole,
        **parts,
        copies=0,  # the gathered weights are in 16 bit already
        gathered=(layers + whole.outside) * width,
        communication=int(REDUCED_UNITS * whole.layer * learned * width),
    )
    if not sharing.offload:
        return made
    kept = made.weights + made.gradients + made.optimizer
    return replace(made, weights=0, gradients=0, optimizer=0, step=0, on_cpu=kept * sharing.per_node)


def zero_shared(whole: States, zero: Mapping[str, Any], sharing: Sharing, states: int) -> States:
    """Return what one process holds with DeepSpeed; `states` are the bytes of gradient and states of one weight.

    Weights are in the type of computation then, and the optimizer has a copy in float32. Gradients are divided from
    stage 2 on, weights from stage 3 on. The optimizer that is moved to the CPU has its copy, gradients and states
    there; gradients are on the GPU in buckets. One process without anything moved needs as much as without DeepSpeed.
    """
    moved = {name for name in ("offload_optimizer", "offload_param") if (zero.get(name) or {}).get("device") == "cpu"}
    n, width, stage = sharing.processes, whole.width, zero["stage"]
    if n == 1 and not moved:
        return whole
    adapter = whole.trained if whole.trained != whole.count else 0
    bucket = _bucket(zero, whole)
    made = replace(whole, copies=0, weights=whole.weights - whole.trained * (4 - width))
    if stage == 3:
        live = min(whole.count, int(zero.get("stage3_max_live_parameters", 1_000_000_000)))
        made = replace(made, weights=made.weights // n, gathered=live * width if n > 1 else 0)
    if n > 1:
        made = replace(made, communication=min(whole.trained, bucket) * width * (2 if zero.get("overlap_comm") else 1))
    on_cpu = 0
    if "offload_optimizer" in moved:
        kept = whole.trained if stage < 2 else min(whole.trained, bucket)
        made = replace(made, gradients=kept * width, optimizer=0, step=0, communication=0)
        on_cpu += whole.trained * (4 + states) // n
    else:
        own = whole.trained * width // (n if stage >= 2 else 1)
        made = replace(made, gradients=own, optimizer=whole.trained * states // n, step=whole.trained * 4 // n)
    if "offload_param" in moved:
        live = min(whole.count + adapter, int(zero.get("stage3_max_live_parameters", 1_000_000_000)))
        made = replace(made, weights=live * width, gathered=0)
        on_cpu += (whole.count + adapter) * width // n
    return replace(made, on_cpu=on_cpu * sharing.per_node)


def _bucket(zero: Mapping[str, Any], whole: States) -> int:
    """Return the gradients that DeepSpeed sums at once; "auto" is the square of the hidden size in transformers."""
    asked = zero.get("reduce_bucket_size", 500_000_000)
    return whole.hidden**2 if asked == "auto" else int(asked)
