"""The pod of a task of KFP that starts nodes, as the Kubernetes API returns it."""

import copy
from typing import Any

POD = "dates-x7k2p-system-container-impl-1234"
RUN_ID = "0b1e6f52-2c3d-4a8e-9b1a-1f2e3d4c5b6a"
WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "dates-x7k2p", "uid": "workflow-uid",
            "controller": True, "blockOwnerDeletion": True}  # fmt: skip

_LAUNCHER: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {
        "name": POD,
        "namespace": "team",
        "uid": "launcher-uid",
        "labels": {
            "pipeline/runid": RUN_ID,
            "pipelines.kubeflow.org/v2_component": "true",
            "workflows.argoproj.io/workflow": "dates-x7k2p",
            "kueue.x-k8s.io/queue-name": "of-the-profile",
            "app.kubernetes.io/part-of": "finetune-pipelines",
            "team": "fine-tuning",
        },
        "annotations": {
            "workflows.argoproj.io/node-name": "dates-x7k2p.root.lanes(1:two).finetune.executor(0)",
            "kubectl.kubernetes.io/default-container": "main",
            "cost-center": "7",
        },
        "ownerReferences": [WORKFLOW],
    },
    "spec": {
        "serviceAccountName": "pipeline-runner",
        "imagePullSecrets": [{"name": "registry"}],
        "securityContext": {"fsGroup": 1000},
        "tolerations": [
            {"key": "team", "operator": "Equal", "value": "fine-tuning", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
             "tolerationSeconds": 300},
        ],
        "volumes": [
            {"name": "var-run-argo", "emptyDir": {}},
            {"name": "kfp-launcher", "emptyDir": {}},
            {"name": "s3-scratch", "emptyDir": {}},
            {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
            {"name": "checkpoints", "persistentVolumeClaim": {"claimName": "checkpoints"}},
            {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "google", "secret": {"secretName": "google"}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "kube-api-access-x", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        ],
        "containers": [
            {"name": "wait", "image": "quay.io/argoproj/argoexec:v4"},
            {
                "name": "main",
                "image": "registry.example.com/team/finetune-pipelines-train@sha256:0123",
                "env": [
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "KFP_POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                    {"name": "ARGO_TEMPLATE", "value": "{}"},
                    {"name": "HF_HOME", "value": "/models/huggingface"},
                    {"name": "MLFLOW_TRACKING_URI", "value": "http://constant"},
                    {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {
                        "name": "s3", "key": "accesskey", "optional": False}}},
                    {"name": "MLFLOW_TRACKING_URI", "valueFrom": {"configMapKeyRef": {
                        "name": "mlflow", "key": "MLFLOW_TRACKING_URI", "optional": True}}},
                    {"name": "NODE_CPUS", "valueFrom": {"resourceFieldRef": {
                        "containerName": "main", "resource": "limits.cpu"}}},
                    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                ],
                "volumeMounts": [
                    {"name": "var-run-argo", "mountPath": "/var/run/argo"},
                    {"name": "kfp-launcher", "mountPath": "/kfp-launcher"},
                    {"name": "s3-scratch", "mountPath": "/s3"},
                    {"name": "dshm", "mountPath": "/dev/shm"},
                    {"name": "checkpoints", "mountPath": "/checkpoints"},
                    {"name": "models", "mountPath": "/models"},
                    {"name": "models", "mountPath": "/datasets", "subPath": "datasets", "readOnly": True},
                    {"name": "google", "mountPath": "/var/run/secrets/google"},
                    {"name": "tmp", "mountPath": "/tmp"},
                    {"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
                     "readOnly": True},
                ],
                "securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "allowPrivilegeEscalation": False},
            },
        ],
    },
    "status": {"phase": "Running"},
}  # fmt: skip


def launcher_pod() -> dict[str, Any]:
    """Return the pod; a test may change it."""
    return copy.deepcopy(_LAUNCHER)
