"""What the nodes of a training take from the pod of the task that starts them.

They run the same image with the same variables and volumes, as the same user: so what a cluster's profile gives to the
task, it gives to the nodes. Secrets are passed on by reference; no value of one is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steps.errors import Problem, UserError

MAIN = "main"  # Argo's name of the container with the task
RUN = "pipeline/runid"
NODE_NAME = "workflows.argoproj.io/node-name"
QUEUE = "kueue.x-k8s.io/queue-name"
# Variables of KFP, of Argo, of Kubernetes and of torchrun, which are about the task's own pod.
NOT_OURS = re.compile(r"_?KFP_.*|ARGO_.*|METADATA_GRPC_.*|ML_PIPELINE_.*|KUBERNETES_.*|PET_.*|NAMESPACE|WORKSPACE_PATH")
# Volumes that KFP's launcher and Argo use for themselves.
SCRATCH = {"kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch", "var-run-argo", "tmp-dir-argo"}
KINDS = ("persistentVolumeClaim", "secret", "configMap", "emptyDir", "csi", "nfs")
SHARED_MEMORY = "/dev/shm"
# Owners of labels and annotations that say what the task's pod is, and not what its nodes are.
OTHERS = re.compile(
    r"(?!app\.)([a-z0-9-]+\.)*(kubernetes\.io|(x-)?k8s\.io|kubeflow\.org|argoproj\.io|istio\.io|openshift\.io|cncf\.io|ovn\.org"
    r"|projectcalico\.org)/.*|pipeline/.*"
)


@dataclass(frozen=True)
class OwnPod:
    """The pod of this task."""

    name: str
    uid: str
    namespace: str
    run: str
    """Id of the run in KFP; without one, what owns the pod."""
    task: str
    """What is the same for every try of this task and for no other task of the run."""
    owners: tuple[Mapping[str, Any], ...]
    """The pod, and what owns the pod, as owner references."""
    image: str
    env: tuple[Mapping[str, Any], ...]
    volumes: tuple[Mapping[str, Any], ...]
    mounts: tuple[Mapping[str, Any], ...]
    service_account: str
    pull_secrets: tuple[Mapping[str, Any], ...]
    pod_security: Mapping[str, Any]
    security: Mapping[str, Any]
    tolerations: tuple[Mapping[str, Any], ...]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    queue: str


def own_pod(pod: Mapping[str, Any], effective: Mapping[str, str]) -> OwnPod:
    """Read the pod of this task, as the Kubernetes API returns it; `effective` is the environment of this process.

    Raises UserError if it has no container `main`.
    """
    metadata, spec = pod["metadata"], pod["spec"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    container = next((one for one in spec["containers"] if one["name"] == MAIN), None)
    if container is None:
        raise UserError(
            Problem("NODES-E0201", f"pod {metadata['name']}", f"no container {MAIN!r}", "the pod of a task of KFP",
                    "set num_nodes_finetune=1, or run the pipeline on KFP")
        )  # fmt: skip
    volumes = list(_volumes(spec, container))
    above = metadata.get("ownerReferences") or []
    return OwnPod(
        name=metadata["name"],
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        run=labels.get(RUN) or next((str(one["uid"]) for one in above), metadata["uid"]),
        # Argo numbers the tries of a task at the end of its name.
        task=re.sub(r"\(\d+\)$", "", annotations.get(NODE_NAME, "")),
        owners=(_reference("v1", "Pod", metadata["name"], metadata["uid"]),
                *(_reference(one["apiVersion"], one["kind"], one["name"], one["uid"]) for one in above)),
        image=container["image"],
        env=tuple(_variables(container.get("env") or [], effective)),
        volumes=tuple(volume for volume, _ in volumes),
        mounts=tuple(mount for _, mount in volumes),
        service_account=spec.get("serviceAccountName") or "default",
        pull_secrets=tuple(spec.get("imagePullSecrets") or ()),
        pod_security=spec.get("securityContext") or {},
        security=container.get("securityContext") or {},
        tolerations=tuple(one for one in spec.get("tolerations") or () if not OTHERS.fullmatch(one.get("key") or "")),
        labels={key: value for key, value in labels.items() if not OTHERS.fullmatch(key)},
        annotations={key: value for key, value in annotations.items() if not OTHERS.fullmatch(key)},
        queue=labels.get(QUEUE, ""),
    )  # fmt: skip


def _reference(version: str, kind: str, name: str, uid: str) -> dict[str, Any]:
    # To block the owner's deletion would need a right to its finalizers, and one controller is enough.
    return {"apiVersion": version, "kind": kind, "name": name, "uid": uid, "blockOwnerDeletion": False}


def _variables(entries: Iterable[Mapping[str, Any]], effective: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    """Yield the user's variables, each name once, because a TrainJob takes no name twice.

    A pod does: there the last entry counts, unless it refers to a key that is optional and missing, which shows in the
    environment.
    """
    given: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if not NOT_OURS.fullmatch(entry["name"]) and "resourceFieldRef" not in (entry.get("valueFrom") or {}):
            given.setdefault(entry["name"], []).append(entry)
    for name, all_ in given.items():
        last, earlier = all_[-1], [entry for entry in all_[:-1] if "valueFrom" not in entry]
        if "valueFrom" in last and earlier and effective.get(name) == (earlier[-1].get("value") or ""):
            last = earlier[-1]
        yield {key: value for key, value in last.items() if value is not None}


def _volumes(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each volume of the user with its mount; a TrainJob takes one mount of a volume, so each gets its own."""
    known = {volume["name"]: volume for volume in spec.get("volumes") or ()}
    number = 0
    for mount in container.get("volumeMounts") or ():
        volume, path = known.get(mount["name"], {}), mount["mountPath"].rstrip("/")
        kind = next((kind for kind in KINDS if kind in volume), None)
        if kind is None or mount["name"] in SCRATCH or path == SHARED_MEMORY:
            continue
        name = f"finetune-{number}"
        number += 1
        kept = {key: mount[key] for key in ("mountPath", "subPath", "readOnly") if mount.get(key)}
        yield {"name": name, kind: volume[kind]}, {"name": name, **kept}
