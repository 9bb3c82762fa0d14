"""How many bytes a run's pod specifications have, as KFP's driver writes them.

The driver (backend/src/v2/driver/driver.go, 2.17) gives the launcher of a task its inputs and outputs (the executor
input), its component and its command as arguments; everything else of the pod is in `pods.py`. The driver of a
sub-pipeline, of a loop and of each item of a loop is a node of its own, whose arguments are the component, with all of
its tasks, and the task (backend/src/v2/compiler/argocompiler/dag.go); so is an importer.
"""

import base64
import gzip
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from pods import pods

# What the components put on their outputs (steps/listed.py), by the inputs of later tasks that get them.
_BASE = {"base_model": "base-model", "parameters": 7241732096, "size_mb": 14483.52}
METADATA = {
    "model": _BASE,
    "base_models": _BASE,
    "tokenizers": {},
    "base": _BASE,
    "tokenizer": {},
    "data": {"rows": 41377, "validation_rows": 400, "test_rows": 400},
    "tuned": {"base_model": "base-model", "kind": "adapter", "parameters": 7241732096, "trained": 11272192,
              "steps": 1940, "size_mb": 45.12},
    "merged": {"parameters": 7241732096, "size_mb": 14483.52},
    "evaluation": {"passed": True, "metric": "exact_match", "score": 0.987654, "score_base": 0.123456, "rows": 300},
    "plan": {"base_model": "base-model", "warnings": 2},
    "chosen_plan": {},
    "report": {},
}  # fmt: skip
Made = dict[str, dict[str, Any]]  # task → the values of its outputs
RUN = "7a4d2f0e-0000-4000-8000-000000000000"  # KFP's ids are as long


def bytes_of(spec: dict[str, Any], platform: dict[str, Any], given: dict[str, Any], planned: dict[str, Any]) -> dict:
    """Return the bytes of each task's pod; `given` are the pipeline's inputs, `planned` the outputs of its plan."""
    sizes: dict[str, int] = {}
    for name, size in pod_sizes(spec, platform, given, {"plan": planned}):
        assert name not in sizes, "a task of a loop has many pods: see pod_sizes"
        sizes[name] = size
    return sizes


def pod_sizes(
    spec: dict[str, Any], platform: dict[str, Any], given: dict[str, Any], made: Made
) -> Iterator[tuple[str, int]]:
    """Yield the name and the bytes of every pod, also of those that a loop makes; `made` are outputs of tasks."""
    plain = {name: _size({**pod, "command": None}) for name, pod in _without_commands(pods(spec, platform)).items()}
    for name, component, values in tasks(spec, spec["root"], given, made):
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        command = [*container["command"], *container["args"]]
        step = component["executorLabel"].removeprefix("exec-")
        yield name, plain[step] + sum(map(_size, (executor_input(spec, component, values), component, command)))


def driver_sizes(spec: dict[str, Any], given: dict[str, Any], made: Made) -> Iterator[tuple[str, int]]:
    """Yield the bytes of every driver's arguments that belongs to no pod, as they stand in the object of a run.

    They are JSON in texts: each quotation mark has two bytes.
    """
    yield "root", _in_text(spec["root"]) + _in_text({"runtimeConfig": {"parameterValues": given}})
    for kind, name, task, component, _ in _walk(spec, spec["root"], given, made):
        if kind != "container":
            yield name, _in_text(component) + _in_text(task)


def nodes_of(
    spec: dict[str, Any], platform: dict[str, Any], given: dict[str, Any], made: Made
) -> dict[str, dict[str, Any]]:
    """Return the nodes in the status of a run's Argo object, as far as their texts come from the pipeline.

    A task has three: its driver, whose arguments are component, task, container and platform settings and whose output
    is the pod's specification, and two that have the specification as an argument. Any other node has a driver and one
    or two that only name their parent.
    """
    chance = Random(0)
    nodes: dict[str, dict[str, Any]] = {}
    run = f"{spec['pipelineInfo']['name']}-x7k2p"

    def some() -> str:
        return f"{run}-{chance.randrange(10**9, 10**10)}"

    def hour(hour: int) -> str:
        return f"2026-11-29T{hour}:{chance.randrange(10, 60)}:{chance.randrange(10, 60)}Z"

    def add(name: str, template: str, inputs: dict[str, Any], outputs: dict[str, Any] | None = None) -> None:
        key = some()
        nodes[key] = {
            "id": key, "name": f"{run}.root.{name}", "displayName": name.split(".")[-1], "type": "Pod",
            "templateName": template, "templateScope": f"local/{run}", "phase": "Succeeded", "boundaryID": some(),
            "startedAt": hour(12), "finishedAt": hour(13),
            "progress": "1/1", "resourcesDuration": {"cpu": chance.randrange(9, 99), "memory": chance.randrange(99)},
            "inputs": {"parameters": [{"name": key, "value": value if isinstance(value, str) else _text(value)}
                                      for key, value in inputs.items()]},
            "outputs": {"parameters": [{"name": key, "value": value, "valueFrom": {"path": f"/tmp/outputs/{key}",
                                        "default": ""}} for key, value in (outputs or {}).items()],
                        "exitCode": "0"},
            "children": [some()],
            "hostNodeName": "a-node",
        }  # fmt: skip

    add("root-driver", "system-dag-driver", {"component": spec["root"], "runtime-config": {"parameterValues": given}})
    add("root", "root", {"parent-dag-id": "1"})
    plain = _without_commands(pods(spec, platform))
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for kind, name, task, component, values in _walk(spec, spec["root"], given, made):
        parent = {"task-name": name, "parent-dag-id": str(chance.randrange(10**4, 10**5)), "iteration-index": "12"}
        driver = {"component": component, "task": task, **parent}
        if kind != "container":
            add(f"{name}-driver", "system-dag-driver", driver, {"execution-id": "12345", "condition": "true"})
            for _ in range(2 if kind == "loop" else 1):
                add(name, f"comp-{name}", {"parent-dag-id": "12345", "condition": ""})
            continue
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        pod = _specification(spec, component, values, container, plain[component["executorLabel"][5:]])
        kubernetes = settings.get(component["executorLabel"], {})
        add(f"{name}-driver", "system-container-driver",
            {**driver, "container": container, "kubernetes-config": kubernetes},
            {"pod-spec-patch": pod, "cached-decision": "false", "condition": "true"})  # fmt: skip
        add(name, "system-container-executor", {"pod-spec-patch": pod, "cached-decision": "false"})
        add(f"{name}.executor", "system-container-impl", {"pod-spec-patch": pod})
    return nodes


def _specification(spec: dict, component: dict, values: dict, container: dict, pod: dict) -> str:
    """Return the specification of a pod as text; the launcher's arguments are texts inside it."""
    arguments = {
        "--pipeline_name": spec["pipelineInfo"]["name"], "--run_id": RUN, "--execution_id": "12345",
        "--executor_input": _text(executor_input(spec, component, values)), "--component_spec": _text(component),
        "--pod_name": "$(KFP_POD_NAME)", "--pod_uid": "$(KFP_POD_UID)", "--mlmd_server_port": "8080",
        "--mlmd_server_address": "metadata-grpc-service.kubeflow.svc.cluster.local", "--publish_logs": "true",
    }  # fmt: skip
    words = [*(word for pair in arguments.items() for word in pair), "--", *container["command"], *container["args"]]
    made = json.loads(json.dumps(pod["spec"]))
    made["containers"][0] |= {"command": ["/kfp-launcher/launch", *words], "args": container["args"]}
    return _text(made)


def object_bytes(spec: dict[str, Any], platform: dict[str, Any], nodes: dict[str, Any]) -> tuple[int, int, int]:
    """Return the bytes of a run's object: specification, nodes, and nodes as Argo compresses them."""
    text = _text(nodes)
    packed = base64.b64encode(gzip.compress(text.encode(), 6))
    return _in_text(spec) + _in_text(platform), len(text.encode()), len(packed)


def tasks(spec: dict[str, Any], dag: dict, given: dict, made: Made) -> Iterator[tuple[str, dict, dict]]:
    """Yield every task that runs a container, once for each item of a loop: its name, component and input values."""
    for kind, name, _, component, values in _walk(spec, dag, given, made):
        if kind == "container":
            yield name, component, values


def _walk(
    spec: dict[str, Any], dag: dict, given: dict, made: Made
) -> Iterator[tuple[str, str, dict, dict, dict[str, Any]]]:
    """Yield kind (container, importer, dag, loop), name, task, component and input values of every node."""
    for name, task in dag["dag"]["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        inputs = task.get("inputs", {}).get("parameters", {})
        values = {key: _value(source, given, made) for key, source in inputs.items()}
        if loop := task.get("parameterIterator"):
            yield "loop", name, task, component, values
            for item in values[loop["items"]["inputParameter"]]:
                one = {**values, loop["itemInput"]: item}
                yield "dag", name, task, component, one
                yield from _walk(spec, component, one, made)
        elif "dag" in component:
            yield "dag", name, task, component, values
            yield from _walk(spec, component, values, made)
        elif "importer" in spec["deploymentSpec"]["executors"][component["executorLabel"]]:
            yield "importer", name, task, component, values
        else:
            yield "container", name, task, component, values


def executor_input(spec: dict[str, Any], component: dict, values: dict[str, Any]) -> dict[str, Any]:
    """Return what KFP passes to a task."""
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    return {
        "inputs": {"parameterValues": values, "artifacts": _artifacts(inputs, METADATA)},
        "outputs": {
            "artifacts": _artifacts(outputs),
            "parameters": {name: {"outputFile": f"/tmp/kfp/outputs/{name}"} for name in outputs.get("parameters", {})},
            "outputFile": "/tmp/kfp_outputs/output_metadata.json",
        },
    }


def _artifacts(definitions: dict[str, Any], metadata: dict[str, dict] | None = None) -> dict[str, Any]:
    place = f"minio://mlpipeline/v2/artifacts/chat-completion/{RUN}/a-task/{RUN}"
    return {
        name: {
            "artifacts": [
                {
                    "name": "101",
                    "type": kind["artifactType"],
                    "uri": f"{place}/{name}",
                    "metadata": metadata[name] if metadata else {},
                }
            ]
        }
        for name, kind in definitions.get("artifacts", {}).items()
    }


def _value(source: dict[str, Any], given: dict[str, Any], made: Made) -> Any:
    if "runtimeValue" in source:
        return source["runtimeValue"]["constant"]
    if "componentInputParameter" in source:
        return given[source["componentInputParameter"]]
    output = source["taskOutputParameter"]
    return made.get(output["producerTask"], {}).get(output["outputParameterKey"], True)


def _without_commands(made: dict[str, Any]) -> dict[str, Any]:
    for pod in made.values():
        pod["spec"]["containers"][0].pop("command")
    return made


def _size(value: Any) -> int:
    return len(_text(value).encode())


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _in_text(value: Any) -> int:
    return _size(_text(value))
