"""The tasks of a compiled pipeline in their order, each with the executor input that KFP's driver would give it.

Written after backend/src/v2/driver and backend/src/v2/component (2.17); it knows what these pipelines use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

BUCKET = "mlpipeline"
_CONDITION = re.compile(r"inputs\.parameter_values\['(.+)'\] == true")
_PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['(.+)'\]\}\}")


@dataclass
class Task:
    """One task: what runs it, and after it has run, what it has made."""

    name: str
    label: str
    """Of its executor."""
    container: dict[str, Any]
    inputs: dict[str, Any]
    """Every parameter that the pipeline hands it, also those for the pod alone."""
    executor_input: dict[str, Any]
    outputs: dict[str, Any]
    """Its declared outputs."""
    cached: bool
    """Whether KFP may reuse what it made for the same inputs."""
    made: dict[str, Any] = field(default_factory=dict)
    """Values of its output parameters, set by who ran it."""
    artifacts: dict[str, Any] = field(default_factory=dict)

    def command(self) -> list[str]:
        """Return the command of its container."""
        arguments = [json.dumps(self.executor_input) if word == "{{$}}" else word for word in self.container["args"]]
        return [*self.container["command"], *arguments]

    def resource(self, name: str) -> str:
        """Return what its container asks for, as the driver resolves it; empty if nothing."""
        found = self.container.get("resources", {}).get(name, "")
        return _PLACEHOLDER.sub(lambda match: str(self.inputs[match[1]]), found)


class Driver:
    """Walks through a pipeline: run each task that `tasks` gives before the next; set its `made` and `artifacts`."""

    def __init__(self, spec: dict[str, Any], given: dict[str, Any]):
        self._spec = spec
        inputs = spec["root"]["inputDefinitions"]["parameters"]
        assert set(given) <= set(inputs), "the backend refuses unknown parameters"
        self._given = {name: given.get(name, inputs[name].get("defaultValue")) for name in inputs}
        self._root = f"minio://{BUCKET}/v2/artifacts/{spec['pipelineInfo']['name']}/run"

    def tasks(self) -> Iterator[Task]:
        """Yield the tasks whose inputs are there and whose conditions hold."""
        yield from self._dag(self._spec["root"]["dag"], self._given, {})

    def _dag(self, dag: dict[str, Any], given: dict[str, Any], artifacts: dict[str, Any]) -> Iterator[Task]:
        finished: dict[str, Task] = {}
        waiting = dict(dag["tasks"])
        while waiting:
            ready = [name for name, task in waiting.items() if not set(task.get("dependentTasks", ())) & set(waiting)]
            assert ready, f"these wait for each other: {sorted(waiting)}"
            task = waiting.pop(name := ready[0])
            scope = _Scope(given, artifacts, finished)
            parameters = {key: scope.parameter(one) for key, one in task["inputs"].get("parameters", {}).items()}
            received = {key: scope.artifact(one) for key, one in task["inputs"].get("artifacts", {}).items()}
            condition = task.get("triggerPolicy", {}).get("condition", "")
            if not all(parameters[one] is True for one in _asked(condition)):
                continue
            component = self._spec["components"][task["componentRef"]["name"]]
            if "dag" in component:
                yield from self._dag(component["dag"], parameters, received)
                continue
            cached = task.get("cachingOptions", {}).get("enableCache", False)
            finished[name] = made = self._task(name, component, parameters, received, cached)
            yield made

    def _task(
        self,
        name: str,
        component: dict[str, Any],
        parameters: dict[str, Any],
        received: dict[str, Any],
        cached: bool,
    ) -> Task:
        declared = component.get("inputDefinitions", {}).get("parameters", {})
        outputs = component.get("outputDefinitions", {})
        passed = {key: parameters.get(key, about.get("defaultValue")) for key, about in declared.items()}
        places = {
            key: {"artifacts": [{"name": key, "type": about["artifactType"], "uri": f"{self._root}/{name}/1/{key}",
                                 "metadata": {}}]}
            for key, about in outputs.get("artifacts", {}).items()
        }  # fmt: skip
        executor_input = {
            "inputs": {
                "parameterValues": {key: value for key, value in passed.items() if value is not None},
                "artifacts": {key: {"artifacts": [value]} for key, value in received.items()},
            },
            "outputs": {
                "parameters": {key: {"outputFile": f"/tmp/kfp/outputs/{key}"} for key in outputs.get("parameters", {})},
                "artifacts": places,
                "outputFile": "/tmp/kfp_outputs/output_metadata.json",
            },
        }
        label = component["executorLabel"]
        container = self._spec["deploymentSpec"]["executors"][label]["container"]
        return Task(name, label, container, parameters, executor_input, outputs, cached)


@dataclass(frozen=True)
class _Scope:
    """What the tasks of one graph can read."""

    parameters: dict[str, Any]
    artifacts: dict[str, Any]
    finished: dict[str, Task]

    def parameter(self, source: dict[str, Any]) -> Any:
        if "componentInputParameter" in source:
            return self.parameters[source["componentInputParameter"]]
        if "taskOutputParameter" in source:
            produced = source["taskOutputParameter"]
            return self.finished[produced["producerTask"]].made[produced["outputParameterKey"]]
        return source["runtimeValue"]["constant"]

    def artifact(self, source: dict[str, Any]) -> dict[str, Any]:
        if "componentInputArtifact" in source:
            return self.artifacts[source["componentInputArtifact"]]
        produced = source["taskOutputArtifact"]
        return self.finished[produced["producerTask"]].artifacts[produced["outputArtifactKey"]]


def _asked(condition: str) -> list[str]:
    """Name the parameters that must be true for a task to run."""
    parts = [_CONDITION.fullmatch(part.strip()) for part in condition.split("&&") if part]
    assert all(parts), condition
    return [part[1] for part in parts if part]
