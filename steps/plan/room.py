"""The memory that a training may use: of the machine that was asked for, or of this one in a local run."""

from __future__ import annotations

from dataclasses import dataclass

from steps.params.pipeline import SupervisedParameters
from steps.plan.hardware import NO_POOL, Hardware
from steps.plan.machine import gpu_memory_here, memory_here
from steps.plan.need import GIB
from steps.plan.seen import runs_here


@dataclass(frozen=True)
class Room:
    """Memory for one training process."""

    bytes: int
    """0 if unknown."""
    what: str
    parameter: str
    """The parameter that chooses it."""
    on_gpu: bool = True


def room_of(p: SupervisedParameters, hardware: Hardware) -> Room:
    """Return the memory of a process where the training is planned; processes on CPUs share that of their machine."""
    if runs_here() and not is_asked_for(p):
        return room_here(p)
    if p.number_of_gpu_to_use_finetuning:
        return Room(hardware.gpu_memory * GIB, "one GPU of instance_type_finetune", "instance_type_finetune")
    return _on_cpus(p, hardware.memory_gib * GIB, "instance_type_finetune", "instance_type_finetune")


def room_here(p: SupervisedParameters) -> Room:
    """Return the memory of this machine's GPU, if there is one and it is used; else that of its processors."""
    if p.number_of_gpu_to_use_finetuning and (size := gpu_memory_here()):
        return Room(size, "this machine's GPU", "number_of_gpu_to_use_finetuning")
    return _on_cpus(p, memory_here(), "this machine", "number_of_gpu_to_use_finetuning")


def _on_cpus(p: SupervisedParameters, size: int, what: str, parameter: str) -> Room:
    count = p.processes_per_node
    return Room(size // count, what if count == 1 else f"{what}, a part for each process", parameter, on_gpu=False)


def is_asked_for(p: SupervisedParameters) -> bool:
    """Return whether a machine was named, so that a plan made on this machine is for that one."""
    usual = type(p).model_fields["instance_type_finetune"].default
    return p.instance_type_finetune != usual or p.compute_finetune not in NO_POOL
