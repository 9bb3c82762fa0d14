"""What Kubeflow Trainer 2.3 takes: closed JSON schemas of its definitions, and the rules that its CRD states besides.

The schemas are those of the classes in the package kubeflow-trainer-api, which are generated from the CRDs. Closed
means: an unknown key is refused, although a server would silently drop it.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonschema

QUANTITY = r"^[+-]?(\d+|\d+\.\d*|\.\d+)([KMGTPE]i|[mkMGTPE]|[eE][+-]?\d+)?$"
# Two types that the classes hold in a form of their own.
PLAIN = {
    "IoK8sApimachineryPkgApiResourceQuantity": {"anyOf": [{"type": "string", "pattern": QUANTITY}, {"type": "number"}]},
    "IoK8sApimachineryPkgUtilIntstrIntOrString": {"type": ["string", "integer"]},
}
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DOMAIN_PATH = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9/_.~!$&'()*+,;=:@%-]+")
RESERVED = re.compile(r"PET_(NNODES|NPROC_PER_NODE|NODE_RANK|MASTER_ADDR|MASTER_PORT)")
LABEL = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")


@cache
def schema(kind: str) -> dict[str, Any]:
    """Return the closed schema of TrainJob or TrainingRuntime."""
    from kubeflow_trainer_api import models

    made = getattr(models, f"TrainerV1alpha1{kind}").model_json_schema(by_alias=True)
    made["$defs"] |= {name: plain for name, plain in PLAIN.items() if name in made["$defs"]}
    for one in (made, *made["$defs"].values()):
        if "properties" in one:
            one.setdefault("additionalProperties", False)
    return _without_null(made)


def _without_null(part: Any) -> Any:
    """Return a schema without its `or null`, which hides what is wrong in one message for the whole."""
    if isinstance(part, list):
        return [_without_null(one) for one in part]
    if not isinstance(part, dict):
        return part
    choices = [one for one in part.get("anyOf", ()) if one != {"type": "null"}]
    if len(choices) == 1:
        return _without_null(choices[0])
    return {key: _without_null(value) for key, value in part.items()}


def faults(made: dict[str, Any]) -> list[str]:
    """Return what is wrong with a TrainJob or a TrainingRuntime; empty if the Trainer takes it."""
    checking = jsonschema.Draft202012Validator(schema(made["kind"]))
    found = [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in checking.iter_errors(made)
    ]
    return found + (list(_rules(made)) if made["kind"] == "TrainJob" and not found else [])


def _rules(job: dict[str, Any]) -> Iterator[str]:
    """Yield what the CRD's rules, list types and the admission webhook of the Trainer refuse."""
    name, spec = job["metadata"]["name"], job["spec"]
    if not NAME.fullmatch(name) or len(name) > 63:
        yield f"metadata.name {name!r} must match RFC 1035 DNS label format, of at most 63 characters"
    for key, value in (job["metadata"].get("labels") or {}).items():
        if not LABEL.fullmatch(value) or len(value) > 63:
            yield f"metadata.labels.{key}: {value!r}"
    if spec.get("activeDeadlineSeconds", 1) < 1:
        yield "spec.activeDeadlineSeconds must be at least 1"
    trainer = spec.get("trainer") or {}
    names = [entry["name"] for entry in trainer.get("env") or ()]
    yield from _repeated("spec.trainer.env", names)
    if len(names) > 128:
        yield "spec.trainer.env: too many"
    yield from (f"spec.trainer.env must not have reserved envs: {one}" for one in names if RESERVED.fullmatch(one))
    if len(trainer.get("image", "")) > 500 or any(len(word) > 65536 for word in trainer.get("command") or ()):
        yield "spec.trainer: a text that is too long"
    patches = spec.get("runtimePatches") or []
    yield from _repeated("spec.runtimePatches", [patch["manager"] for patch in patches])
    for patch in patches:
        if not DOMAIN_PATH.fullmatch(patch["manager"]):
            yield f"manager {patch['manager']!r} must be a domain-prefixed path"
        jobs = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        yield from _repeated("replicatedJobs", [one["name"] for one in jobs])
        for one in jobs:
            if one["name"] != "node":
                yield "must not have a job that doesn't exist in the runtime"
            yield from _pod_rules(one["template"]["spec"]["template"])


def _pod_rules(template: dict[str, Any]) -> Iterator[str]:
    if extra := set(template.get("metadata") or {}) - {"labels", "annotations"}:
        yield f"only labels and annotations are allowed, not {extra}"
    pod = template["spec"]
    yield from _repeated("volumes", [volume["name"] for volume in pod.get("volumes") or ()])
    yield from _repeated("imagePullSecrets", [one["name"] for one in pod.get("imagePullSecrets") or ()])
    for container in pod.get("containers") or ():
        if container["name"] != "node":
            yield "must not have a container that doesn't exist in the runtime job node"
        if container.get("env"):
            yield "must not have envs for the dataset-initializer, model-initializer, node containers"
        yield from _repeated("volumeMounts", [mount["name"] for mount in container.get("volumeMounts") or ()])
        mounted = {mount["name"] for mount in container.get("volumeMounts") or ()}
        if missing := mounted - {volume["name"] for volume in pod.get("volumes") or ()}:
            yield f"volumeMounts without a volume: {missing}"


def _repeated(where: str, names: list[str]) -> Iterator[str]:
    if len(set(names)) < len(names):
        yield f"{where}: {sorted(name for name in set(names) if names.count(name) > 1)} twice"
