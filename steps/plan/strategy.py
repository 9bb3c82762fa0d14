"""Choose how several processes share a model, by the estimate of the memory that each of them needs."""

from __future__ import annotations

from dataclasses import dataclass

from steps.params.pipeline import SupervisedParameters
from steps.params.verl_training import VerlTrainingParameters
from steps.plan.lengths import longest
from steps.plan.memory import MemoryEstimate, checkpoint_bytes, estimate
from steps.plan.need import GIB
from steps.plan.room import Room, room_of
from steps.plan.seen import Seen
from steps.plan.sharding import Sharing, Strategy, sharing_of
from steps.plan.verl import asked as verl_asked
from steps.plan.verl_memory import verl_estimate, verl_sharing

# Optimizers whose update of a weight needs that weight alone, so that a shard is updated as the whole would be.
# adafactor needs rows and columns, galore whole matrices; the others were not tried on shards.
FIT_FSDP = ("adamw_torch", "adamw_torch_fused", "sgd")


@dataclass(frozen=True)
class Choice:
    """How the processes of a training share the model, and what each of them needs."""

    sharing: Sharing
    memory: MemoryEstimate
    room: Room
    why: str
    """The reason, as it stands after "N processes"; empty for one process."""


def choose(seen: Seen) -> Choice | None:
    """Choose for the run that the plan has seen; None without a model or machine.

    distributed_strategy=auto copies the model if that fits, with recomputed activations if needed (they cost a fifth of
    the time, sharding more between machines), else shards it if that is possible and needs less.
    """
    if seen.model is None or "finetune" not in seen.hardware:
        return None
    p, room = seen.parameters, room_of(seen.parameters, seen.hardware["finetune"])
    if of_verl := verl_asked(p):
        return Choice(verl_sharing(of_verl), estimate_of(seen, p, "fsdp", room), room, "share the models (fsdp)")
    copied = estimate_of(seen, p, "ddp", room)
    if p.devices == 1 or seen.zero:
        told = "share optimizer states and more with DeepSpeed" if p.devices > 1 else ""
        return Choice(sharing_of(p, "ddp"), copied, room, told)
    if p.distributed_strategy != "auto":
        own = copied if p.distributed_strategy == "ddp" else estimate_of(seen, p, "fsdp", room)
        word = "have a copy of the model each (ddp)" if p.distributed_strategy == "ddp" else "share the model (fsdp)"
        return Choice(sharing_of(p, p.distributed_strategy), own, room, f"{word}, as distributed_strategy says")
    if copied.fits:
        told = _of_room(copied, room) if room.bytes else "; the memory of the machine is not known"
        return Choice(sharing_of(p, "ddp"), copied, room, f"have a copy of the model each (ddp){told}")
    if reason := unfit_for_fsdp(p):
        told = f"have a copy of the model each (ddp): it needs {_gib(copied.needed)}, but {reason}"
        return Choice(sharing_of(p, "ddp"), copied, room, told)
    shards = estimate_of(seen, p, "fsdp", room)
    told = (
        f"share the model (fsdp), because a copy needs {_gib(copied.needed)} of the {_gib(room.bytes)} of {room.what}"
    )
    return Choice(sharing_of(p, "fsdp"), shards, room, f"{told}, a shard {_gib(shards.needed)}")


def unfit_for_fsdp(p: SupervisedParameters) -> str:
    """Return why the model cannot be sharded; empty if it can."""
    if p.bits:
        return "quantised weights cannot be sharded"
    if p.optim not in FIT_FSDP:
        return f"optim={p.optim} cannot update shards"
    return ""


def estimate_of(seen: Seen, p: SupervisedParameters, strategy: Strategy, room: Room) -> MemoryEstimate:
    """Estimate what a process of the run needs with other parameters `p`, on a device of another `room`."""
    model = seen.model
    assert model is not None
    length = longest(p, seen.recipe, model)
    if isinstance(p, VerlTrainingParameters) and p.uses_verl:
        return verl_estimate(p, seen.recipe, model.layout.config, model.parameters, length, room.bytes)
    return estimate(
        p,
        seen.recipe,
        model.layout.config,
        model.parameters,
        length,
        gpu_memory=room.bytes / GIB,
        reference=seen.reference.parameters if seen.reference else 0,
        zero=seen.zero.config["zero_optimization"] if seen.zero and p.apply_deepspeed else None,
        sharing=sharing_of(p, strategy),
        on_gpu=room.on_gpu,
    )


def seen_checkpoint(seen: Seen) -> int:
    """Return the size of a checkpoint of the run that the plan has seen, about; 0 without a model."""
    if seen.model is None:
        return 0
    zero = seen.zero.config["zero_optimization"] if seen.zero else None
    config = seen.model.layout.config
    return checkpoint_bytes(seen.parameters, seen.recipe, config, seen.model.parameters, zero)


def _of_room(needs: MemoryEstimate, room: Room) -> str:
    return f", which fits: {_gib(needs.needed)} of the {_gib(room.bytes)} of {room.what}"


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
