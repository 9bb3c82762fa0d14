"""Training on several nodes: what they need that one node does not, and what they request.

Kubeflow Trainer starts the nodes; the task of KFP only creates the job and moves files, so it requests little.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from steps.errors import Problem
from steps.params.nodes import OUR_RUNTIME, NodeSettings, quantity_of, runtime_of, size_in_bytes
from steps.params.pipeline import SupervisedParameters
from steps.plan.hardware import Hardware, small_hardware
from steps.plan.need import GIB, Need
from steps.plan.seen import Seen, runs_here
from steps.sources.storage import local_path

if TYPE_CHECKING:
    from steps.plan.deciding import Decisions

NODES = "nodes"  # group of requests, and name of the row in the plan's table
LEAST_GRACE = 600  # seconds from SIGTERM to SIGKILL
SAVES_IN_GRACE = 4  # the time of a save is an estimate


def node_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse several nodes where there is one machine, or no place that all of them see."""
    p = seen.parameters
    if p.num_nodes_finetune == 1:
        return
    if runs_here():
        count = max(p.nproc_per_node_finetune, 1) * p.num_nodes_finetune
        yield Problem("PLAN-E0391", "num_nodes_finetune", f"{p.num_nodes_finetune} in a local run", "1",
                      f"leave it out; nproc_per_node_finetune={count} starts as many processes on this machine",
                      why="this is one machine")  # fmt: skip
    elif not p.checkpoint_dir or local_path(p.checkpoint_dir) is None:
        yield Problem("PLAN-E0392", "checkpoint_dir",
                      f"{p.checkpoint_dir or 'nothing'}, with num_nodes_finetune={p.num_nodes_finetune}",
                      "a folder on a volume that all nodes mount (ReadWriteMany)",
                      "set it; a profile's volume that holds checkpoints does",
                      why="the nodes exchange model, rows, checkpoints and the result through one folder")  # fmt: skip
    shm, memory = size_in_bytes(p.shm_size_finetune), seen.hardware.get("finetune")
    if memory and not runs_here() and shm >= memory.memory_gib * GIB:
        yield Problem("PLAN-E0394", "shm_size_finetune", f"{p.shm_size_finetune}, of nodes with {memory.memory}",
                      "less than the memory of a node", "lower it, or name a larger instance_type_finetune",
                      why="/dev/shm is part of that memory")  # fmt: skip


def node_notes(seen: Seen) -> Iterator[str]:
    """Say what a training on several nodes needs in the cluster."""
    p = seen.parameters
    if p.num_nodes_finetune > 1 and p.training_runtime_finetune != OUR_RUNTIME:
        yield (f"training_runtime_finetune: {p.training_runtime_finetune} decides whether a preempted node starts all "
               f"nodes again, and a mistake none, as {OUR_RUNTIME} (docs/training-runtime.yaml) does")  # fmt: skip


def with_nodes(
    p: SupervisedParameters, most: Mapping[str, Hardware], needs: Mapping[str, Need], merging: int
) -> tuple[dict[str, Hardware], dict[str, Need]]:
    """Return requests and needs with those of the nodes apart from those of the task that starts them.

    `merging` is the memory in which the task merges an adapter; 0 if it merges none.
    """
    if p.num_nodes_finetune == 1:
        return dict(most), dict(needs)
    training = needs["finetune"]
    each = replace(training, why=f"{p.num_nodes_finetune} nodes, each: {training.why}")
    starting = Need(merging, f"starts {p.num_nodes_finetune} nodes and moves their files", training.disk, least=merging)
    return (
        {**most, "finetune": small_hardware(merging), NODES: most["finetune"]},
        {**needs, "finetune": starting, NODES: each},
    )


def nodes_of(decisions: Decisions) -> NodeSettings | None:
    """Return what each node requests; None for one node, which is the task's own pod."""
    p, hardware = decisions.parameters, decisions.hardware.get(NODES)
    if hardware is None:
        return None
    kind, name = runtime_of(p.training_runtime_finetune)
    return NodeSettings(
        cpu=hardware.cpu,
        memory=hardware.memory,
        gpu_type=hardware.gpu_type,
        gpu_count=int(hardware.gpu_count),
        node_selector=hardware.node_selector,
        tolerations=hardware.tolerations,
        shm_size=quantity_of(size_in_bytes(p.shm_size_finetune)),
        queue=p.kueue_queue_finetune,
        deadline_seconds=max(1, round(p.deadline_hours_finetune * 3600)),
        runtime_kind=kind,
        runtime=name,
        grace_seconds=max(LEAST_GRACE, round(SAVES_IN_GRACE * decisions.saves.seconds)),
    )
