"""Several training processes: how many, and how they share the model."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group


class FsdpParams(Group):
    """PyTorch's fully_shard (FSDP2)."""

    fsdp_reshard_after_forward: bool = True
    """Free the gathered weights of a layer after its forward pass; false needs more memory and sends less data."""

    fsdp_cpu_offload: bool = False
    """Keep shards, gradients and optimizer states in CPU memory; saves GPU memory, and is slower."""

    fsdp_transformer_layer_cls_to_wrap: str = ""
    """Class names of the layers that are gathered one at a time, separated by commas; empty: the model's own list."""


class DistributedParams(FsdpParams):
    """Processes of finetune, and how they share weights, gradients and optimizer states."""

    nproc_per_node_finetune: int = Field(0, ge=0)
    """Training processes per node; 0: one per GPU, or one without GPUs."""

    distributed_strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """With several processes: ddp copies the model, fsdp shards it, auto shards it if a copy does not fit."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse another number of processes than GPUs, and two ways to share the model."""
        asked, gpus = self.nproc_per_node_finetune, getattr(self, "number_of_gpu_to_use_finetuning", 0)
        if asked and gpus and asked != gpus:
            yield Problem("PARAM-E0295", "nproc_per_node_finetune", f"{asked} for {gpus} GPUs",
                          "one process per GPU", f"leave it out, or set number_of_gpu_to_use_finetuning={asked}",
                          why="each process needs a GPU of its own")  # fmt: skip
        if self.distributed_strategy == "fsdp" and getattr(self, "apply_deepspeed", False):
            yield Problem("PARAM-E0296", "distributed_strategy", "fsdp with apply_deepspeed=true", "one of the two",
                          "leave distributed_strategy out, or set apply_deepspeed=false",
                          why="both shard the model")  # fmt: skip


class Processes(Group):
    """The processes that train together; their number and strategy change how the result is computed."""

    nodes: int = Field(1, ge=1)
    """Nodes; more than one are started as a TrainJob."""

    per_node: int = Field(1, ge=1)
    """Processes on each node: one per GPU, or any number on CPUs."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """Each process has a copy of the model (ddp) or a shard of it (fsdp); ignored with a DeepSpeed configuration."""

    fsdp: FsdpParams = Field(default_factory=FsdpParams)
    """Options of fsdp."""

    @property
    def count(self) -> int:
        """Processes on all nodes."""
        return self.nodes * self.per_node
