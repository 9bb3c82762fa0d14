"""Nodes of a training on several nodes, which Kubeflow Trainer starts as one TrainJob."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from steps.errors import Problem, shown
from steps.params.group import Group

# Where the API has TrainJobs, and the labels of ours.
GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
MANAGED_BY, MANAGER, RUN_LABEL = "app.kubernetes.io/managed-by", "finetune-pipelines", "finetune-pipelines/run"

# Bytes of a quantity of Kubernetes, or of a size as container engines write it: their g is 2**30.
UNITS = {
    "": 1, "b": 1, "k": 2**10, "ki": 2**10, "kb": 2**10, "m": 2**20, "mi": 2**20, "mb": 2**20, "g": 2**30, "gi": 2**30,
    "gb": 2**30, "t": 2**40, "ti": 2**40, "tb": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
# A name, which is that of a ClusterTrainingRuntime, or kind and name.
_RUNTIME = re.compile(r"(?:(ClusterTrainingRuntime|TrainingRuntime)/)?([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?)")
_LABEL = re.compile(r"([a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?)?")
OUR_RUNTIME = "TrainingRuntime/finetune"  # docs/training-runtime.yaml


class NodeParams(Group):
    """Nodes of a training with num_nodes_finetune above 1."""

    shm_size_finetune: str = "5g"
    """Size of /dev/shm in each node's pod, such as 5g or 512m; counts as memory of the pod."""

    kueue_queue_finetune: str = ""
    """Local queue of Kueue in which the nodes wait together; empty: the queue of finetune's own pod, if it has one."""

    deadline_hours_finetune: float = Field(168.0, gt=0, le=24 * 365)
    """Hours after which the nodes are stopped, counted anew after they waited in a queue."""

    training_runtime_finetune: str = OUR_RUNTIME
    """Runtime of Kubeflow Trainer: kind/name, or the name of a ClusterTrainingRuntime (docs/training-runtime.yaml)."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a size, a queue or a runtime that Kubernetes cannot have."""
        if not size_in_bytes(self.shm_size_finetune):
            yield Problem("PARAM-E0297", "shm_size_finetune", shown(self.shm_size_finetune), "a size above 0",
                          "write 5g, 5Gi or 512m")  # fmt: skip
        if not _LABEL.fullmatch(self.kueue_queue_finetune):
            yield Problem("PARAM-E0298", "kueue_queue_finetune", shown(self.kueue_queue_finetune),
                          "the name of a local queue in lower case", "correct it")  # fmt: skip
        if not _RUNTIME.fullmatch(self.training_runtime_finetune):
            yield Problem("PARAM-E0299", "training_runtime_finetune", shown(self.training_runtime_finetune),
                          "TrainingRuntime/NAME, ClusterTrainingRuntime/NAME or NAME",
                          f"leave it out for {OUR_RUNTIME}")  # fmt: skip


def size_in_bytes(text: str) -> int:
    """Return the bytes of a size such as 5g, 5Gi, 512m or 1.5GB; 0 if it is none. Every unit is a power of 1024."""
    read = _SIZE.fullmatch(text.strip().lower())
    return int(float(read[1]) * UNITS[read[2]]) if read and read[2] in UNITS else 0


def quantity_of(size: int) -> str:
    """Return bytes as a quantity of Kubernetes, in the largest unit that holds them exactly."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size and size % UNITS[unit.lower()] == 0:
            return f"{size // UNITS[unit.lower()]}{unit}"
    return str(size)


def runtime_of(text: str) -> tuple[str, str]:
    """Return kind and name of a runtime that `NodeParams` accepts."""
    read = _RUNTIME.fullmatch(text)
    assert read, text
    return read[1] or "ClusterTrainingRuntime", read[2]


class NodeSettings(Group):
    """What each node of a training requests, and how Kubeflow Trainer starts it; changes no result."""

    cpu: str = "1"
    """CPUs of each node."""

    memory: str = "2Gi"
    """Memory of each node."""

    gpu_type: str = ""
    """Resource name of the GPUs; empty without GPUs."""

    gpu_count: int = Field(0, ge=0)
    """GPUs of each node."""

    node_selector: dict[str, str] = Field(default_factory=dict)
    """Labels of the machines."""

    tolerations: list[dict[str, Any]] = Field(default_factory=list)
    """Taints that the nodes' pods tolerate, besides those of finetune's own pod."""

    shm_size: str = "5Gi"
    """Size of /dev/shm."""

    queue: str = ""
    """Local queue of Kueue; empty: that of finetune's own pod."""

    deadline_seconds: int = Field(7 * 24 * 3600, ge=1)
    """Seconds after which the nodes are stopped."""

    runtime_kind: str = "TrainingRuntime"
    """Kind of the runtime of Kubeflow Trainer."""

    runtime: str = "finetune"
    """Its name."""

    grace_seconds: int = Field(600, ge=30)
    """Seconds between SIGTERM and SIGKILL, in which a checkpoint is saved."""
