"""What would let a training fit into memory: changes that are tried one after the other with the same estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from steps.errors import UserError
from steps.params.pipeline import SupervisedParameters
from steps.params.verl import VerlParams
from steps.plan.generations import batch_problems, rewarded
from steps.plan.hardware import Instance, hardware_of, instance_types
from steps.plan.need import GIB
from steps.plan.room import Room
from steps.plan.seen import Seen
from steps.plan.sharding import Strategy
from steps.plan.strategy import Choice, estimate_of, unfit_for_fsdp
from steps.plan.verl import asked, size_problems
from steps.plan.verl_memory import all_changes, verl_changes

MOST = 4  # told at once, the least costly first
GPUS = (2, 4, 8)


def remedies(seen: Seen, choice: Choice) -> list[str]:
    """Return the changes of parameters with which the training is expected to fit, in words.

    Each is enough by itself; where none is, those that are enough together. A change that the parameters do not allow
    is left out.
    """
    p, room, strategy = seen.parameters, choice.room, choice.sharing.strategy
    if of_verl := asked(p):
        return _of_verl(seen, of_verl, choice)
    found = [words for words, changes, how in _changes(seen, p, room, strategy) if _fits(seen, changes, how, room)]
    found += _larger_machines(seen, choice)
    return found[:MOST] or _together(seen, p, room, strategy)


def _of_verl(seen: Seen, p: VerlParams, choice: Choice) -> list[str]:
    """Do the same for a training with verl."""
    room = choice.room
    found = [words for words, changes in verl_changes(p) if _fits(seen, changes, "fsdp", room)]
    found += [words for words, changes in _more_gpus_of_verl(seen, p, room) if _fits(seen, changes, "fsdp", room)][:1]
    found += _larger_machines(seen, choice)
    words, changes = all_changes(p)
    return found[:MOST] or ([words] if changes and _fits(seen, changes, "fsdp", room) else [])


def _more_gpus_of_verl(seen: Seen, p: VerlParams, room: Room) -> Iterator[tuple[str, dict[str, Any]]]:
    kind = instance_types(seen.parameters).get(seen.parameters.instance_type_finetune.lower())
    for count in GPUS:
        if kind and room.parameter == "instance_type_finetune" and p.gpus_per_node < count <= kind.gpus:
            changes = {"number_of_gpu_to_use_finetuning": count}
            more = {"trainer_n_gpus_per_node": count} if p.trainer_n_gpus_per_node else {}
            yield f"number_of_gpu_to_use_finetuning={count} (of {kind.gpus})", {**changes, **more}


def told(found: list[str]) -> str:
    """Join remedies as alternatives; empty without any."""
    return f"it would fit with {'; or with '.join(found)}" if found else ""


def _changes(
    seen: Seen, p: SupervisedParameters, room: Room, strategy: Strategy
) -> Iterator[tuple[str, dict[str, Any], Strategy]]:
    if p.gradient_checkpointing == "false":
        yield "gradient_checkpointing=true", {"gradient_checkpointing": "true"}, strategy
    if room.on_gpu and p.optim == "adamw_torch":
        yield "optim=adamw_torch_fused", {"optim": "adamw_torch_fused"}, strategy
    yield from _smaller_batches(seen, p, room, strategy)
    if p.devices > 1 and strategy == "ddp" and not unfit_for_fsdp(p) and not p.apply_deepspeed:
        yield "distributed_strategy=fsdp", {"distributed_strategy": "fsdp"}, "fsdp"
    if not p.apply_lora:
        lora = {"apply_lora": True, "precision": "16"}
        yield "apply_lora=true and precision=16", lora, strategy
        yield "apply_lora=true, precision=16 and load_in_4bit=true", {**lora, "load_in_4bit": True}, "ddp"
    elif not p.bits:
        half = "" if p.precision == "16" else "precision=16"
        if half:
            yield half, {"precision": "16"}, strategy
        yield f"load_in_4bit=true{f' and {half}' if half else ''}", {"load_in_4bit": True, "precision": "16"}, "ddp"
    yield from _more_gpus(p, room)


def _smaller_batches(
    seen: Seen, p: SupervisedParameters, room: Room, strategy: Strategy
) -> Iterator[tuple[str, dict[str, Any], Strategy]]:
    """Yield the largest smaller batch that fits, with as many sequences per step."""
    size, steps = p.per_device_train_batch_size, p.gradient_accumulation_steps
    for smaller in (size // factor for factor in (2, 4, 8, 16, 32, 64) if size % factor == 0):
        changes = {"per_device_train_batch_size": smaller, "gradient_accumulation_steps": steps * size // smaller}
        if _fits(seen, changes, strategy, room):
            if p.total_train_batch_size:
                changes = {"max_per_device_train_batch_size": smaller}
            yield " and ".join(f"{name}={value}" for name, value in changes.items()), changes, strategy
            return


def _more_gpus(p: SupervisedParameters, room: Room) -> Iterator[tuple[str, dict[str, Any], Strategy]]:
    """Yield more GPUs of the same kind, as far as its instance type has them, which share the model."""
    kind = instance_types(p).get(p.instance_type_finetune.lower())
    if kind is None or not room.on_gpu or room.parameter != "instance_type_finetune":
        return
    changes: dict[str, Any] = {"distributed_strategy": "fsdp", "nproc_per_node_finetune": 0, "apply_deepspeed": False}
    for count in GPUS:
        if p.number_of_gpu_to_use_finetuning < count <= kind.gpus and not unfit_for_fsdp(p):
            words = f"number_of_gpu_to_use_finetuning={count} (of {kind.gpus}) and distributed_strategy=fsdp"
            yield words, {**changes, "number_of_gpu_to_use_finetuning": count}, "fsdp"


def _fits(seen: Seen, changes: dict[str, Any], strategy: Strategy, room: Room) -> bool:
    p = seen.parameters.model_copy(update=changes)
    whole = rewarded(p)
    if list(p.all_conflicts()) or (whole is not None and list(batch_problems(whole))):
        return False
    if (of_verl := asked(p)) and list(size_problems(of_verl)):
        return False
    return estimate_of(seen, p, strategy, room).fits


def _larger_machines(seen: Seen, choice: Choice) -> list[str]:
    """Return the instance type with the smallest GPUs, or the least memory, in which the training fits."""
    p, room = seen.parameters, choice.room
    if room.parameter != "instance_type_finetune":
        return []
    for name, kind in sorted(instance_types(p).items(), key=lambda item: (_size(item[1], room), item[1].gpus)):
        if _size(kind, room) * GIB <= room.bytes:
            continue
        try:
            hardware = hardware_of(p.model_copy(update={"instance_type_finetune": name}))["finetune"]
        except UserError:  # too few GPUs
            continue
        size = hardware.gpu_memory if room.on_gpu else hardware.memory_gib // p.processes_per_node
        if estimate_of(seen, p, choice.sharing.strategy, replace(room, bytes=size * GIB)).fits:
            gpu = f" ({kind.gpu_memory} GiB for each GPU)" if room.on_gpu else f" ({kind.memory} GiB)"
            return [f"instance_type_finetune={name}{gpu}"]
    return []


def _size(kind: Instance, room: Room) -> int:
    return kind.gpu_memory if room.on_gpu else kind.memory


def _together(seen: Seen, p: SupervisedParameters, room: Room, strategy: Strategy) -> list[str]:
    """Return the least of the changes that are enough together: recomputing, one sequence, an adapter, 4 bits."""
    size, steps = p.per_device_train_batch_size, p.gradient_accumulation_steps
    changes: dict[str, Any] = {"gradient_checkpointing": "true"}
    if size > 1 and not p.total_train_batch_size:
        changes |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": steps * size}
    sharded: Strategy = "fsdp" if p.devices > 1 and not unfit_for_fsdp(p) and not p.apply_deepspeed else strategy
    for more, how in (
        ({}, sharded),
        ({"apply_lora": True, "precision": "16"}, sharded),
        ({"apply_lora": True, "precision": "16", "load_in_4bit": True}, "ddp"),
    ):
        wanted: dict[str, Any] = {**changes, **more, **({"distributed_strategy": "fsdp"} if how != strategy else {})}
        wanted = {name: value for name, value in wanted.items() if value != getattr(p, name)}
        if wanted and _fits(seen, wanted, how, room):
            return [", ".join(f"{name}={str(value).lower()}" for name, value in wanted.items()) + " together"]
    return []
