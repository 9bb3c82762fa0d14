"""Whether /dev/shm is large enough for the processes of one node, which exchange gradients through it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from steps.params.nodes import size_in_bytes
from steps.params.pipeline import SupervisedParameters
from steps.params.verl import VerlParams
from steps.plan.hardware import shared_memory
from steps.plan.need import GIB
from steps.plan.seen import Seen, runs_here
from steps.plan.verl import Step, asked

UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# NCCL's buffers between two processes are at most 4 MiB for each of 32 channels; NVIDIA's guide for containers gives
# them 1 GiB in all, and torch's data loaders use the same.
LEAST = GIB
# Of each token of a step in verl's batch: six columns of whole numbers and six of probabilities, rewards and advantages
# (verl.trainer.ppo.v1.trainer_base).
BATCH_BYTES = 6 * 8 + 6 * 4


def shared_memory_notes(seen: Seen) -> Iterator[str]:
    """Warn of a /dev/shm in which NCCL fails when it connects the processes of a node."""
    p = seen.parameters
    if (of_verl := asked(p)) and not runs_here():
        yield from _of_verl(of_verl, p)
        return
    if runs_here() or p.processes_per_node < 2 or not p.number_of_gpu_to_use_finetuning or p.num_nodes_finetune > 1:
        return
    given = shared_memory()
    if _bytes(given) < LEAST:
        yield (f"/dev/shm of finetune has {given}, and {p.processes_per_node} processes need about 1Gi: set "
               "shared_memory in the cluster's profile and compile again")  # fmt: skip


def _of_verl(p: VerlParams, on: SupervisedParameters) -> Iterator[str]:
    """Warn of a /dev/shm without room for NCCL's buffers in one half and for Ray's objects, the batch, in the other."""
    step, longest, several = Step.of(p), p.data_max_prompt_length + p.data_max_response_length, p.nodes > 1
    needed = 2 * max(LEAST if step.gpus > 1 else 0, step.completions * longest * BATCH_BYTES)
    given = on.shm_size_finetune if several else shared_memory()
    if (size_in_bytes(given) if several else _bytes(given)) >= needed:
        return
    size = f"{-(-needed // GIB)}Gi"
    fix = (
        f"set shm_size_finetune={size}" if several
        else f"set shared_memory: {size} in the cluster's profile and compile again"
    )  # fmt: skip
    yield (f"/dev/shm of {'each node' if several else 'finetune'} has {given}, and verl needs about {size}: half for "
           f"NCCL, half for the {step.completions:,} completions of a step: {fix}")  # fmt: skip


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)(Mi|Gi|Ti)", text)
    return int(found[1]) * UNITS[found[2]] if found else LEAST
