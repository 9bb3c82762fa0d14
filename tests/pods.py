"""The pods that KFP's driver makes of a compiled pipeline, and the rules that a cluster holds them against.

The driver (backend/src/v2/driver/driver.go and k8s.go, 2.17) reads an executor's container and its
KubernetesExecutorConfig, resolves run-time values and adds the security settings of the `restricted` standard, except
for the user. It mounts the run's workspace where a text among the task's inputs holds its path. What it refuses is
refused here too.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as schema
from kfp.pipeline_spec import pipeline_spec_pb2

KUBERNETES = "1.37"
WORKSPACE = "/kfp-workspace"
CLAIM = "run-kfp-workspace"  # named after the run
# Values of the plan and the parameters at run time, by the end of their names.
AT_RUN_TIME: dict[str, Any] = {
    "node_selector": {"node-pool": "gpus"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "config_map": "mlflow",
    "huggingface_token_secret": "hub",
    "endpoint_key_secret": "endpoint-key",
}


def checked(spec: dict[str, Any], platform: dict[str, Any]) -> None:
    """Parse both documents with the backend's own schemas; raises ParseError for an unknown key or a wrong type."""
    json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    deployment = pipeline_spec_pb2.PipelineDeploymentConfig()
    json_format.ParseDict(spec["deploymentSpec"], deployment)


def pods(
    spec: dict[str, Any], platform: dict[str, Any], decided: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the pod of every executor, as a Kubernetes object.

    `decided` are outputs of the plan; without them, the training's settings hold the default of checkpoint_dir.
    """
    checked(spec, platform)
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    given = {
        name: value["defaultValue"]
        for name, value in spec["root"]["inputDefinitions"]["parameters"].items()
        if isinstance(value.get("defaultValue"), str)
    }
    default = str(given.get("checkpoint_dir", ""))
    outputs = {"training": default, "lanes": default} if decided is None else decided
    inputs = dict(_inputs(spec, spec["root"], given, outputs))
    made = {}
    for label, executor in spec["deploymentSpec"]["executors"].items():
        if "importer" in executor:  # KFP's own pod
            continue
        config = json_format.ParseDict(settings[label], schema.KubernetesExecutorConfig())
        step = label.removeprefix("exec-")
        made[step] = pod(executor["container"], config)
        if any(WORKSPACE in text or "{{$.workspace_path}}" in text for text in inputs[label]):
            _mount_workspace(made[step]["spec"])
    return made


def _inputs(
    spec: dict[str, Any], dag: dict[str, Any], given: Mapping[str, str], decided: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield each executor with the texts among its inputs, as far as they are known."""
    for task in dag["dag"]["tasks"].values():
        known = {}
        for name, source in task.get("inputs", {}).get("parameters", {}).items():
            if "componentInputParameter" in source:
                known[name] = given.get(source["componentInputParameter"], "")
            elif "taskOutputParameter" in source:
                known[name] = decided.get(source["taskOutputParameter"]["outputParameterKey"], "")
            elif isinstance(constant := source["runtimeValue"]["constant"], str):
                known[name] = constant
        if loop := task.get("parameterIterator"):
            known[loop["itemInput"]] = known[loop["items"]["inputParameter"]]
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            yield from _inputs(spec, component, known, decided)
        else:
            yield component["executorLabel"], list(known.values())


def _mount_workspace(spec: dict[str, Any]) -> None:
    for mount in spec["containers"][0]["volumeMounts"]:
        assert not mount["mountPath"].startswith(WORKSPACE), f"{mount['mountPath']} conflicts with the workspace"
        assert mount["name"] != WORKSPACE[1:], f"{mount['name']} conflicts with the workspace's volume"
    spec["volumes"].append({"name": WORKSPACE[1:], "persistentVolumeClaim": {"claimName": CLAIM}})
    spec["containers"][0]["volumeMounts"].append({"name": WORKSPACE[1:], "mountPath": WORKSPACE})


def workspace_claim(platform: dict[str, Any]) -> dict[str, Any] | None:
    """Return the claim that the API server makes for a run (argocompiler/argo.go); None without a workspace."""
    workspace = platform["platforms"]["kubernetes"].get("pipelineConfig", {}).get("workspace")
    if not workspace:
        return None
    patch = workspace["kubernetes"]["pvcSpecPatch"]
    assert set(patch) <= {"accessModes", "storageClassName"}, "unknown fields in PVC spec patch"
    spec = {**patch, "resources": {"requests": {"storage": workspace["size"]}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}


def pod(container: dict[str, Any], config: Any) -> dict[str, Any]:
    """Return the pod of one executor."""
    main: dict[str, Any] = {
        "name": "main",
        "image": container["image"],
        "command": container["command"],
        "env": [dict(variable) for variable in container.get("env", [])],
        "volumeMounts": [],
        "securityContext": {
            "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"}, **_user(config),
        },
    }  # fmt: skip
    spec: dict[str, Any] = {"restartPolicy": "Never", "containers": [main], "volumes": []}
    _add_variables(main, config)
    _add_volumes(spec, main, config)
    if selector := _selector(config):
        spec["nodeSelector"] = selector
    spec["tolerations"] = _tolerations(config)
    spec["imagePullSecrets"] = [{"name": _named(entry, "secret_name")} for entry in config.image_pull_secret]
    if config.image_pull_policy:
        main["imagePullPolicy"] = config.image_pull_policy
    if config.active_deadline_seconds:
        spec["activeDeadlineSeconds"] = config.active_deadline_seconds
    metadata = {"labels": dict(config.pod_metadata.labels), "annotations": dict(config.pod_metadata.annotations)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "task", **metadata}, "spec": spec}


def _user(config: Any) -> dict[str, Any]:
    context = config.security_context
    names = {"run_as_user": "runAsUser", "run_as_group": "runAsGroup", "run_as_non_root": "runAsNonRoot"}
    return {name: getattr(context, field) for field, name in names.items() if context.HasField(field)}


def _add_variables(main: dict[str, Any], config: Any) -> None:
    for entry, kind, key in (
        *((entry, "secretKeyRef", "secret_key") for entry in config.secret_as_env),
        *((entry, "configMapKeyRef", "config_map_key") for entry in config.config_map_as_env),
    ):
        name = _named(entry, "secret_name" if kind == "secretKeyRef" else "config_map_name")
        for pair in entry.key_to_env:
            source = {"name": name, "key": getattr(pair, key), "optional": entry.optional}
            main["env"].append({"name": pair.env_var, "valueFrom": {kind: source}})


def _add_volumes(spec: dict[str, Any], main: dict[str, Any], config: Any) -> None:
    for entry in config.pvc_mount:
        name = _named(entry, "constant", "pvc_name_parameter")
        spec["volumes"].append({"name": name, "persistentVolumeClaim": {"claimName": name}})
        mount = {"name": name, "mountPath": entry.mount_path}
        main["volumeMounts"].append({**mount, "subPath": entry.sub_path} if entry.sub_path else mount)
    for entry in config.secret_as_volume:
        name = _named(entry, "secret_name")
        spec["volumes"].append({"name": name, "secret": {"secretName": name, "optional": entry.optional}})
        main["volumeMounts"].append({"name": name, "mountPath": entry.mount_path})
    for entry in config.empty_dir_mounts:
        empty = {"medium": entry.medium, "sizeLimit": entry.size_limit}
        spec["volumes"].append({"name": entry.volume_name, "emptyDir": {k: v for k, v in empty.items() if v}})
        main["volumeMounts"].append({"name": entry.volume_name, "mountPath": entry.mount_path})


def _selector(config: Any) -> dict[str, str]:
    if config.node_selector.HasField("node_selector_json"):
        return dict(_value(config.node_selector.node_selector_json))  # replaces constant labels
    return dict(config.node_selector.labels)


def _tolerations(config: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for entry in config.tolerations:
        if entry.HasField("toleration_json"):
            made += _value(entry.toleration_json)
            continue
        plain = {"key": entry.key, "operator": entry.operator, "value": entry.value, "effect": entry.effect}
        taint: dict[str, Any] = {key: value for key, value in plain.items() if value}
        if entry.HasField("toleration_seconds"):
            taint["tolerationSeconds"] = entry.toleration_seconds
        made.append(taint)
    return made


def _named(entry: Any, constant: str, parameter: str = "") -> str:
    field = parameter or f"{constant}_parameter"
    name = _value(getattr(entry, field)) if entry.HasField(field) else getattr(entry, constant)
    assert isinstance(name, str), f"expected a text for {constant}, found {name!r}"
    assert name, "Expected a non-empty string"  # the driver's own words
    return name


def _value(parameter: Any) -> Any:
    """Return the value of an InputParameterSpec at run time."""
    kind = parameter.WhichOneof("kind")
    if kind == "runtime_value":
        return parameter.runtime_value.constant.string_value
    name = parameter.task_output_parameter.output_parameter_key if kind == "task_output_parameter" else (
        parameter.component_input_parameter)  # fmt: skip
    return next(value for end, value in AT_RUN_TIME.items() if name.endswith(end))


def restricted_faults(pod: dict[str, Any]) -> list[str]:
    """Return what the `restricted` pod security standard refuses (kubernetes.io, Pod Security Standards)."""
    spec, faults = pod["spec"], []
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    faults += [f"volume {v['name']}" for v in spec["volumes"] if not set(v) - {"name"} <= allowed]
    faults += [f"{key} is set" for key in ("hostNetwork", "hostPID", "hostIPC") if spec.get(key)]
    for container in spec["containers"]:
        context = {**spec.get("securityContext", {}), **container["securityContext"]}  # the container's own wins
        if context.get("runAsNonRoot") is not True:
            faults.append("runAsNonRoot is not true")
        if context.get("runAsUser") == 0:
            faults.append("runs as root")
        if context.get("privileged") or context.get("allowPrivilegeEscalation") is not False:
            faults.append("privileges can be escalated")
        if context.get("capabilities", {}).get("drop") != ["ALL"] or context.get("capabilities", {}).get("add"):
            faults.append("capabilities are not dropped")
        if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            faults.append("no seccomp profile")
    return faults
