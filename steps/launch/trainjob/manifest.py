"""The TrainJob of a training: its name, and what it says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from steps.launch.trainjob.own_pod import QUEUE, SHARED_MEMORY, OwnPod
from steps.params.distributed import Processes
from steps.params.nodes import GROUP, MANAGED_BY, MANAGER, RUN_LABEL, VERSION, NodeSettings

KIND = "TrainJob"
NODE = "node"  # the Trainer's name of the job and of its container that train
TASK_LABEL, ATTEMPT = "finetune-pipelines/task", "finetune-pipelines/attempt"
LAUNCHER = "finetune-pipelines/launcher"
# A proxy beside the processes would take the connections between the nodes, and outlive them.
WITHOUT_PROXY = {"sidecar.istio.io/inject": "false"}
LONGEST_LABEL = 63


def job_name(pod: OwnPod, identity: str) -> str:
    """Return a name that is the same for every try of this task, and no other task's: ft-<run>-<digest>, RFC 1035."""
    digest = hashlib.sha256("\0".join((pod.run, pod.task, identity)).encode()).hexdigest()
    run = re.sub(r"[^a-z0-9]", "", pod.run.lower())[:8]
    return f"ft-{run}-{digest[:16]}" if run else f"ft-{digest[:16]}"


def manifest_of(
    name: str, command: Sequence[str], pod: OwnPod, nodes: NodeSettings, processes: Processes, attempt: int = 1
) -> dict[str, Any]:
    """Return the TrainJob that runs `command` on every node."""
    queue = nodes.queue or pod.queue
    ours = {MANAGED_BY: MANAGER, RUN_LABEL: label(pod.run), TASK_LABEL: name}
    labels = {**ours, ATTEMPT: str(attempt), LAUNCHER: label(pod.name), **({QUEUE: queue} if queue else {})}
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": KIND,
        "metadata": {
            "name": name,
            "namespace": pod.namespace,
            "labels": labels,
            "ownerReferences": [dict(owner) for owner in pod.owners],
        },
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": nodes.runtime_kind, "name": nodes.runtime},
            "activeDeadlineSeconds": nodes.deadline_seconds,
            "trainer": {
                "image": pod.image,
                "command": list(command),
                "numNodes": processes.nodes,
                "numProcPerNode": processes.per_node,
                "resourcesPerNode": _resources(nodes),
                # Not through runtimePatches: the Trainer refuses variables of this container there.
                **({"env": [dict(entry) for entry in pod.env]} if pod.env else {}),
            },
            "runtimePatches": [{"manager": f"{MANAGER}/launcher", "trainingRuntimeSpec": _patch(pod, nodes, ours)}],
        },
    }


def label(text: str) -> str:
    """Return a text in the form of a label's value; longer ones are cut and keep a digest of the whole."""
    made = re.sub(r"[^A-Za-z0-9_.-]", "-", text).strip("_.-")
    if len(made) <= LONGEST_LABEL:
        return made
    return f"{made[: LONGEST_LABEL - 9].rstrip('_.-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _resources(nodes: NodeSettings) -> dict[str, Any]:
    """Return equal requests and limits, as KFP's tasks have: so the last pods that a full machine evicts."""
    amounts = {"cpu": nodes.cpu, "memory": nodes.memory}
    if nodes.gpu_count:
        amounts[nodes.gpu_type] = str(nodes.gpu_count)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _patch(pod: OwnPod, nodes: NodeSettings, ours: dict[str, str]) -> dict[str, Any]:
    memory = {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": nodes.shm_size}}
    container: dict[str, Any] = {
        "name": NODE,
        "volumeMounts": [*(dict(mount) for mount in pod.mounts), {"name": "dshm", "mountPath": SHARED_MEMORY}],
    }
    if pod.security:
        container["securityContext"] = dict(pod.security)
    spec: dict[str, Any] = {
        "serviceAccountName": pod.service_account,
        "volumes": [*(dict(volume) for volume in pod.volumes), memory],
        "containers": [container],
        "terminationGracePeriodSeconds": nodes.grace_seconds,
    }
    tolerations = [dict(one) for one in nodes.tolerations]
    tolerations += [dict(one) for one in pod.tolerations if dict(one) not in tolerations]
    optional = {
        "imagePullSecrets": [dict(one) for one in pod.pull_secrets],
        "securityContext": dict(pod.pod_security),
        "nodeSelector": dict(nodes.node_selector),
        "tolerations": tolerations,
    }
    spec |= {key: value for key, value in optional.items() if value}
    metadata = {"labels": {**pod.labels, **ours}, "annotations": {**pod.annotations, **WITHOUT_PROXY}}
    metadata["labels"] |= WITHOUT_PROXY  # newer versions of Istio read the label
    template = {"metadata": metadata, "spec": spec}
    return {"template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": template}}}]}}}
