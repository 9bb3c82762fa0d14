"""Put a cluster's profile into a compiled pipeline: images, credentials, volumes, scheduling, security, defaults.

The compiled form is changed, not the pipeline: the same function compiles for every cluster, and the backend's own
schema (protobuf) describes every setting that is written here.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from pipelines.images import CORE, TRAIN, VERL
from pipelines.in_pod import bake
from pipelines.kfp_values import kfp_value
from pipelines.profile import Profile, Volume
from pipelines.resources import HUB_TOKEN
from steps.params.compute import CLUSTER, WORKSPACE
from steps.params.registration import SIGNING_KEY, TRACKING_VARIABLES

GOOGLE_FOLDER = "/var/run/secrets/google"
SIGNING_FOLDER = "/var/run/secrets/signing"
AZURE_KEYS = (
    "account_name", "account_key", "connection_string", "sas_token", "tenant_id", "client_id", "client_secret",
)  # fmt: skip


# Steps that keep their progress in checkpoint_dir; the plan looks whether the place can be written.
CHECKPOINTED = ("plan", "finetune", "trial", "generate")
SIGNING = ("plan", "register-model")  # the plan looks whether the key can sign, minutes or days before it has to
UPLOADING = ("generate",)  # steps that keep or copy their results in object stores


@dataclass(frozen=True)
class Access:
    """What a task reads and writes outside of KFP's artifacts, as its pipeline says (`resources.py`)."""

    sources: bool
    """Models, adapters and rows: it gets the Hub's token."""
    tracking: bool
    """MLflow, with its artifact store: it gets the config map."""
    uploads: bool
    """Results that it keeps or copies in a store."""

    @property
    def stores(self) -> bool:
        """Whether it needs the credentials of object stores."""
        return self.sources or self.tracking or self.uploads


def access_of(pod: dict[str, Any], step: str) -> Access:
    """Read the access of a task from its compiled settings, before the profile is put in."""

    def given(kind: str) -> set[str]:
        return {pair["envVar"] for entry in pod.get(kind, []) for pair in entry["keyToEnv"]}

    tracking = TRACKING_VARIABLES[0] in given("configMapAsEnv")
    return Access(HUB_TOKEN in given("secretAsEnv"), tracking, step in UPLOADING)


def images_of(profile: Profile | None) -> dict[str, str]:
    """Return the images that a profile names whole; the others get its registry (`compile.py`)."""
    named = {CORE: profile.images.core, TRAIN: profile.images.train, VERL: profile.images.verl} if profile else {}
    return {image: reference for image, reference in named.items() if reference}


def put(
    profile: Profile,
    spec: dict[str, Any],
    platform: dict[str, Any],
    parameters: dict[str, FieldInfo],
    fixed: Container[str] = (),
) -> None:
    """Change a pipeline spec and its platform spec to what the profile says.

    `parameters` are all of the pipeline; the profile has no defaults for those that its form has `fixed`.
    """
    kubernetes = platform.setdefault("platforms", {}).setdefault("kubernetes", {})
    settings = kubernetes.setdefault("deploymentSpec", {}).setdefault("executors", {})
    for label, executor in spec["deploymentSpec"]["executors"].items():
        if "container" not in executor:  # an importer, which KFP itself runs
            continue
        step, container = label.removeprefix("exec-"), executor["container"]
        access = access_of(settings.setdefault(label, {}), step)
        if variables := dict(_variables(profile, step, access)):
            container["env"] = [*container.get("env", []), *({"name": k, "value": v} for k, v in variables.items())]
        _put_pod(profile, step, access, settings[label])
    if config := _pipeline_config(profile):
        kubernetes["pipelineConfig"] = {**kubernetes.get("pipelineConfig", {}), **config}
    _put_defaults(profile, spec, {name: field for name, field in parameters.items() if name not in fixed})
    if not profile.caching:
        _stop_caching(spec)


def _variables(profile: Profile, step: str, access: Access) -> Iterator[tuple[str, str]]:
    """Yield the constant environment of a step."""
    store, tracking = profile.object_store, profile.tracking
    if access.stores:
        if store.s3.endpoint:
            yield "AWS_ENDPOINT_URL", store.s3.endpoint
            yield "MLFLOW_S3_ENDPOINT_URL", store.s3.endpoint
        if store.s3.region:
            yield "AWS_DEFAULT_REGION", store.s3.region
        if store.google.secret:
            yield "GOOGLE_APPLICATION_CREDENTIALS", f"{GOOGLE_FOLDER}/{store.google.file}"
    if access.tracking and tracking.uri:
        yield TRACKING_VARIABLES[0], tracking.uri
    for volume in profile.volumes:
        if "hub_cache" in volume.holds and access.sources:
            yield "HF_HOME", f"{volume.mount_path.rstrip('/')}/huggingface"
    if step in SIGNING and profile.signing.secret:
        yield SIGNING_KEY, f"{SIGNING_FOLDER}/{profile.signing.key}"
    if step == "plan" and profile.for_the_plan != Profile().for_the_plan:
        yield CLUSTER, profile.for_the_plan


def _put_pod(profile: Profile, step: str, access: Access, pod: dict[str, Any]) -> None:
    """Change the settings of a step's pod (KubernetesExecutorConfig)."""
    _extend(pod, "secretAsEnv", _secret_variables(profile, access))
    if access.stores and (google := profile.object_store.google).secret:
        _extend(pod, "secretAsVolume", [_secret_files(google.secret, GOOGLE_FOLDER)])
    if step in SIGNING and (signing := profile.signing).secret:
        # Without the secret a pod would wait for ever; an optional one starts, and its plan says what is missing.
        _extend(pod, "secretAsVolume", [{**_secret_files(signing.secret, SIGNING_FOLDER), "optional": True}])
    _extend(pod, "pvcMount", (_mount(volume) for volume in profile.volumes if _mounts(volume, step, access)))
    _extend(pod, "imagePullSecret", ({"secretName": name, "secretNameParameter": _constant(name)}
                                     for name in profile.images.pull_secrets))  # fmt: skip
    if profile.images.pull_policy:
        pod["imagePullPolicy"] = profile.images.pull_policy
    _extend(pod, "tolerations", (_toleration(taint.model_dump()) for taint in profile.tolerations))
    # The other steps get theirs from the plan, whose JSON replaces constant labels.
    if profile.node_selector and "nodeSelectorJson" not in pod.get("nodeSelector", {}):
        pod["nodeSelector"] = {"labels": dict(profile.node_selector)}
    metadata = {"labels": _labels(profile), "annotations": dict(profile.annotations)}
    if any(metadata.values()):
        pod["podMetadata"] = {key: value for key, value in metadata.items() if value}
    pod["securityContext"] = _security(profile)
    for mount in pod.get("emptyDirMounts", []):
        if mount["mountPath"] == "/dev/shm":
            mount["sizeLimit"] = profile.shared_memory
    if profile.times.step:
        pod["activeDeadlineSeconds"] = str(profile.times.step)


def _secret_variables(profile: Profile, access: Access) -> Iterator[dict[str, Any]]:
    s3, azure, tracking = profile.object_store.s3, profile.object_store.azure, profile.tracking
    wanted = [
        (access.stores, s3.secret, {"AWS_ACCESS_KEY_ID": s3.access_key, "AWS_SECRET_ACCESS_KEY": s3.secret_key,
                                      "AWS_SESSION_TOKEN": s3.session_token}),
        (access.stores, azure.secret, {f"AZURE_STORAGE_{key.upper()}": getattr(azure, key) for key in AZURE_KEYS}),
        (access.tracking, tracking.secret, {"MLFLOW_TRACKING_USERNAME": tracking.username,
                                             "MLFLOW_TRACKING_PASSWORD": tracking.password,
                                             "MLFLOW_TRACKING_TOKEN": tracking.token}),
    ]  # fmt: skip
    for reads, secret, variables in wanted:
        pairs = [{"secretKey": key, "envVar": name} for name, key in variables.items() if key]
        if reads and secret and pairs:
            yield {"secretName": secret, "secretNameParameter": _constant(secret), "keyToEnv": pairs, "optional": False}


def _secret_files(secret: str, folder: str) -> dict[str, Any]:
    return {"secretName": secret, "mountPath": folder, "secretNameParameter": _constant(secret)}


def _mounts(volume: Volume, step: str, access: Access) -> bool:
    needed = {"checkpoints": step in CHECKPOINTED, "hub_cache": access.sources, "data": access.sources}
    return any(needed[held] for held in volume.holds)


def _mount(volume: Volume) -> dict[str, Any]:
    mount = {"constant": volume.claim, "mountPath": volume.mount_path, "pvcNameParameter": _constant(volume.claim)}
    return {**mount, "subPath": volume.sub_path} if volume.sub_path else mount


def _toleration(taint: dict[str, Any]) -> dict[str, Any]:
    seconds = taint.pop("seconds")
    made = {key: value for key, value in taint.items() if value}
    return {**made, "tolerationSeconds": str(seconds)} if seconds else made


def _labels(profile: Profile) -> dict[str, str]:
    queue = {"queue-name": profile.queue.name, "priority-class": profile.queue.priority_class}
    return {**profile.labels, **{f"kueue.x-k8s.io/{key}": value for key, value in queue.items() if value}}


def _security(profile: Profile) -> dict[str, Any]:
    ids = {"runAsUser": profile.pod_security.run_as_user, "runAsGroup": profile.pod_security.run_as_group}
    return {"runAsNonRoot": True, **{key: str(value) for key, value in ids.items() if value is not None}}


def _pipeline_config(profile: Profile) -> dict[str, Any]:
    times = {"activeDeadlineSeconds": profile.times.run, "resourceTtlOnCompletion": profile.times.keep_finished}
    config: dict[str, Any] = {key: value for key, value in times.items() if value}
    if (workspace := profile.workspace).size:
        # The API server accepts these two keys of a claim and no others (argocompiler, 2.17).
        claim: dict[str, Any] = {"accessModes": list(workspace.access_modes)}
        if workspace.storage_class:
            claim["storageClassName"] = workspace.storage_class
        config["workspace"] = {"size": workspace.size, "kubernetes": {"pvcSpecPatch": claim}}
    return config


def _put_defaults(profile: Profile, spec: dict[str, Any], parameters: dict[str, FieldInfo]) -> None:
    """Set defaults of inputs; parameters that are no input of the pipeline's form get the value in its plan."""
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    hidden = {}
    resuming: dict[str, Any] = {}
    places = [volume.mount_path.rstrip("/") for volume in profile.volumes if "checkpoints" in volume.holds]
    if (
        profile.workspace.size
    ):  # KFP's driver mounts it where an input holds its path: into plan and the tasks that it names
        places.append(WORKSPACE)
    for place in places:
        resuming = {"checkpoint_dir": f"{place}/checkpoints", "resume_from_checkpoint": "auto"}
    for name, value in {**resuming, **profile.defaults}.items():
        if name in inputs and name in parameters:
            inputs[name]["defaultValue"] = kfp_value(parameters[name], value)
        elif name in parameters:
            hidden[name] = value
    if hidden:
        bake(spec["deploymentSpec"]["executors"]["exec-plan"]["container"]["command"], hidden)


def _stop_caching(spec: dict[str, Any]) -> None:
    components = spec.get("components", {}).values()
    for dag in (spec["root"], *(component for component in components if "dag" in component)):
        for task in dag["dag"]["tasks"].values():
            task["cachingOptions"] = {}


def _constant(text: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": text}}


def _extend(pod: dict[str, Any], key: str, entries: Any) -> None:
    if added := list(entries):
        pod[key] = [*pod.get(key, []), *added]
