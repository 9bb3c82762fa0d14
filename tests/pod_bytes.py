"""How many bytes a run's pod specifications have, as KFP's driver writes them.

The driver (backend/src/v2/driver/driver.go, 2.17) gives the launcher of a task its inputs and outputs (the executor
input), its component and its command as arguments; everything else of the pod is in `pods.py`.
"""

import json
from collections.abc import Iterator
from typing import Any

from pods import pods

# What the components put on their outputs (steps/listed.py), by the inputs of later tasks that get them.
_BASE = {"base_model": "base-model", "parameters": 7241732096, "size_mb": 14483.52}
METADATA = {
    "model": _BASE,
    "base": _BASE,
    "tokenizer": {},
    "data": {"rows": 41377, "validation_rows": 400, "test_rows": 400},
    "tuned": {"base_model": "base-model", "kind": "adapter", "parameters": 7241732096, "trained": 11272192,
              "steps": 1940, "size_mb": 45.12},
    "merged": {"parameters": 7241732096, "size_mb": 14483.52},
    "evaluation": {"passed": True, "metric": "exact_match", "score": 0.987654, "score_base": 0.123456, "rows": 300},
    "plan": {"base_model": "base-model", "warnings": 2},
    "report": {},
}  # fmt: skip
RUN = "7a4d2f0e-0000-4000-8000-000000000000"  # KFP's ids are as long


def bytes_of(spec: dict[str, Any], platform: dict[str, Any], given: dict[str, Any], planned: dict[str, Any]) -> dict:
    """Return the bytes of each task's pod; `given` are the pipeline's inputs, `planned` the outputs of its plan."""
    plain = {name: _size({**pod, "command": None}) for name, pod in _without_commands(pods(spec, platform)).items()}
    sizes = {}
    for name, component, values in tasks(spec, spec["root"], given, planned):
        container = spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        command = [*container["command"], *container["args"]]
        step = component["executorLabel"].removeprefix("exec-")
        sizes[name] = plain[step] + sum(map(_size, (executor_input(spec, component, values), component, command)))
    return sizes


def tasks(spec: dict[str, Any], dag: dict, given: dict, planned: dict) -> Iterator[tuple[str, dict, dict]]:
    """Yield every task that runs a container: its name, component and input values."""
    for name, task in dag["dag"]["tasks"].items():
        component = spec["components"][task["componentRef"]["name"]]
        inputs = task.get("inputs", {}).get("parameters", {})
        values = {key: _value(source, given, planned) for key, source in inputs.items()}
        if "dag" in component:
            yield from tasks(spec, component, values, planned)
        else:
            yield name, component, values


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


def _value(source: dict[str, Any], given: dict[str, Any], planned: dict[str, Any]) -> Any:
    if "runtimeValue" in source:
        return source["runtimeValue"]["constant"]
    if "componentInputParameter" in source:
        return given[source["componentInputParameter"]]
    output = source["taskOutputParameter"]
    return planned[output["outputParameterKey"]] if output["producerTask"] == "plan" else True


def _without_commands(made: dict[str, Any]) -> dict[str, Any]:
    for pod in made.values():
        pod["spec"]["containers"][0].pop("command")
    return made


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
