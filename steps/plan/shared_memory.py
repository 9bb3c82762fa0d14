"""Whether /dev/shm is large enough for the processes of one node, which exchange gradients through it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from steps.plan.hardware import shared_memory
from steps.plan.need import GIB
from steps.plan.seen import Seen, runs_here

UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# NCCL's buffers between two processes are at most 4 MiB for each of 32 channels; NVIDIA's guide for containers gives
# them 1 GiB in all, and torch's data loaders use the same.
LEAST = GIB


def shared_memory_notes(seen: Seen) -> Iterator[str]:
    """Warn of a /dev/shm in which NCCL fails when it connects the processes of a node."""
    p = seen.parameters
    if runs_here() or p.processes_per_node < 2 or not p.number_of_gpu_to_use_finetuning or p.num_nodes_finetune > 1:
        return
    given = shared_memory()
    if _bytes(given) < LEAST:
        yield (f"/dev/shm of finetune has {given}, and {p.processes_per_node} processes need about 1Gi: set "
               "shared_memory in the cluster's profile and compile again")  # fmt: skip


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)(Mi|Gi|Ti)", text)
    return int(found[1]) * UNITS[found[2]] if found else LEAST
