"""Finds errors in a compiled pipeline that the SDK does not check for: dangling references, missing inputs, cycles.

The compiler and the loader of kfp accept all of these, and the cluster reports them only after GPUs were allocated. A
condition may only read a component's single return value or a pipeline input: the local runner silently evaluates a
condition on a named output as false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.(parameters|artifacts)\[['\"]+(.+?)['\"]+\]")
CHANNEL = "pipelinechannel--"
RESOURCE_INPUTS = {
    "accelerator_count", "accelerator_type", "container_image",
    "cpu_limit", "cpu_request", "memory_limit", "memory_request",
}  # fmt: skip
CONDITION_INPUT = re.compile(r"inputs\.parameter_values\['(.+?)'\]")


def check_file(file: Path) -> list[str]:
    """Check one compiled YAML; return its errors."""
    documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    platform = documents[1] if len(documents) > 1 else {}
    return list(check(documents[0], platform))


def check(spec: dict[str, Any], platform: dict[str, Any] | None = None) -> Iterator[str]:
    """Yield every error in a pipeline spec and its platform spec."""
    components = spec.get("components", {})
    executors = spec.get("deploymentSpec", {}).get("executors", {})
    if spec["pipelineInfo"]["name"] in {name.removeprefix("comp-") for name in components}:
        yield f"the pipeline and a component have the same name: {spec['pipelineInfo']['name']}"
    used: set[str] = set()
    yield from _check_dag("root", spec["root"], components, used)
    for name, component in components.items():
        if "dag" in component:
            yield from _check_dag(name, component, components, used)
        elif component.get("executorLabel") not in executors:
            yield f"{name}: no executor {component.get('executorLabel')!r}"
    yield from (f"{name}: never used" for name in components if name not in used)
    yield from _check_executors(spec, components, executors)
    configured = (
        (platform or {}).get("platforms", {}).get("kubernetes", {}).get("deploymentSpec", {}).get("executors", {})
    )
    yield from (f"platform settings for {name}, which does not exist" for name in configured if name not in executors)
    yield from _check_platform_inputs(spec, components, configured)


def _check_dag(name: str, component: dict[str, Any], components: dict[str, Any], used: set[str]) -> Iterator[str]:
    tasks = component["dag"]["tasks"]
    for key, task in tasks.items():
        reference = task["componentRef"]["name"]
        used.add(reference)
        if reference not in components:
            yield f"{name}/{key}: no component {reference}"
            continue
        where = f"{name}/{key}"
        yield from _check_inputs(where, task, component, components, tasks)
        yield from _check_edges(where, task, tasks)
        yield from _check_condition(where, task)
    yield from _check_outputs(name, component, components, tasks)
    if loop := _cycle(tasks):
        yield f"{name}: a cycle through {' → '.join(loop)}"


def _check_inputs(
    where: str, task: dict[str, Any], parent: dict[str, Any], components: dict[str, Any], tasks: dict[str, Any]
) -> Iterator[str]:
    declared = components[task["componentRef"]["name"]].get("inputDefinitions", {})
    for kind in ("parameters", "artifacts"):
        given = task.get("inputs", {}).get(kind, {})
        known = declared.get(kind, {})
        leaf = "dag" not in components[task["componentRef"]["name"]]
        for key in given:
            # The SDK declares resource values on the task only, not on the component.
            if key not in known and not (leaf and (key in RESOURCE_INPUTS or key.startswith(CHANNEL))):
                yield f"{where}: input {key} is not declared by its component"
        for key, definition in known.items():
            needed = not definition.get("isOptional") and "defaultValue" not in definition
            if needed and key not in given and key != _item(task):
                yield f"{where}: required input {key} is missing"
        for key, source in given.items():
            yield from _check_source(f"{where}.{key}", kind, source, parent, components, tasks)
            if kind == "parameters" and key in known:
                yield from _check_type(f"{where}.{key}", known[key], _declared(source, parent, components, tasks))


def _item(task: dict[str, Any]) -> str:
    """Return the input that gets one item of the list that a task is repeated for; empty for other tasks."""
    return str(task.get("parameterIterator", {}).get("itemInput", ""))


def _check_type(where: str, wanted: dict[str, Any], given: dict[str, Any]) -> Iterator[str]:
    """Find values that the backend refuses, as it converts nothing but to text; items of a loop have a type as well."""
    kinds = given.get("parameterType"), wanted.get("parameterType")
    if None not in kinds and kinds[0] != kinds[1] and kinds[1] != "STRING":
        yield f"{where}: a {kinds[0]} for a {kinds[1]}"


def _declared(
    source: dict[str, Any], parent: dict[str, Any], components: dict[str, Any], tasks: dict[str, Any]
) -> dict[str, Any]:
    """Return the declaration of a parameter that a task is given: of an input of its pipeline, or of an output.

    Outputs of the tasks of a loop are collected, and their type is not that of the list.
    """
    if own := source.get("componentInputParameter"):
        return dict(parent.get("inputDefinitions", {}).get("parameters", {}).get(own, {}))
    made = source.get("taskOutputParameter", {})
    producer = tasks.get(made.get("producerTask"), {})
    if not producer or "parameterIterator" in producer:
        return {}
    outputs = components.get(producer["componentRef"]["name"], {}).get("outputDefinitions", {})
    return dict(outputs.get("parameters", {}).get(made["outputParameterKey"], {}))


def _check_source(
    where: str,
    kind: str,
    source: dict[str, Any],
    parent: dict[str, Any],
    components: dict[str, Any],
    tasks: dict[str, Any],
) -> Iterator[str]:
    field = "taskOutputParameter" if kind == "parameters" else "taskOutputArtifact"
    if produced := source.get(field):
        key = produced.get("outputParameterKey") or produced.get("outputArtifactKey")
        yield from _check_producer(where, kind, produced["producerTask"], key, components, tasks)
    own = source.get("componentInputParameter") or source.get("componentInputArtifact")
    if own and own not in parent.get("inputDefinitions", {}).get(kind, {}):
        yield f"{where}: the surrounding pipeline has no input {own}"


def _check_producer(
    where: str, kind: str, producer: str, key: str, components: dict[str, Any], tasks: dict[str, Any]
) -> Iterator[str]:
    if producer not in tasks:
        yield f"{where}: no task {producer}"
        return
    outputs = components.get(tasks[producer]["componentRef"]["name"], {}).get("outputDefinitions", {}).get(kind, {})
    if key not in outputs:
        yield f"{where}: {producer} has no output {key}"


def _check_edges(where: str, task: dict[str, Any], tasks: dict[str, Any]) -> Iterator[str]:
    declared = set(task.get("dependentTasks", []))
    yield from (f"{where}: depends on {name}, which does not exist" for name in declared if name not in tasks)
    producers = {name for name in _producers(task) if name in tasks}
    yield from (f"{where}: uses {name} without depending on it" for name in sorted(producers - declared))


def _producers(task: dict[str, Any]) -> set[str]:
    inputs = task.get("inputs", {})
    sources = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    found = [source.get("taskOutputParameter") or source.get("taskOutputArtifact") for source in sources]
    return {produced["producerTask"] for produced in found if produced}


def _check_condition(where: str, task: dict[str, Any]) -> Iterator[str]:
    condition = task.get("triggerPolicy", {}).get("condition", "")
    given = task.get("inputs", {}).get("parameters", {})
    for name in CONDITION_INPUT.findall(condition):
        produced = given.get(name, {}).get("taskOutputParameter")
        if name not in given:
            yield f"{where}: its condition reads {name}, which is not an input of the task"
        elif produced and produced["outputParameterKey"] != "Output":
            yield f"{where}: its condition reads the named output {produced['outputParameterKey']}"


def _check_outputs(
    name: str, component: dict[str, Any], components: dict[str, Any], tasks: dict[str, Any]
) -> Iterator[str]:
    outputs = component["dag"].get("outputs", {})
    for key, selected in outputs.get("parameters", {}).items():
        source = selected.get("valueFromParameter")
        if source:
            yield from _check_producer(
                f"{name} output {key}", "parameters", source["producerSubtask"], source["outputParameterKey"],
                components, tasks,
            )  # fmt: skip
    for key, selected in outputs.get("artifacts", {}).items():
        for source in selected.get("artifactSelectors", []):
            yield from _check_producer(
                f"{name} output {key}", "artifacts", source["producerSubtask"], source["outputArtifactKey"],
                components, tasks,
            )  # fmt: skip


def _check_executors(spec: dict[str, Any], components: dict[str, Any], executors: dict[str, Any]) -> Iterator[str]:
    labels = {component.get("executorLabel") for component in components.values()}
    for label, executor in executors.items():
        if label not in labels:
            yield f"executor {label}: no component uses it"
        elif "importer" in executor:
            continue
        elif not isinstance(image := executor.get("container", {}).get("image"), str):
            yield f"executor {label}: its image is {image!r}"
    for _, where, task, label in _leaf_tasks(spec, components):
        container = executors.get(label, {}).get("container", {})
        given = task.get("inputs", {})
        if "importer" in executors.get(label, {}) and _producers(task):
            yield f"{where}: an importer reads inputs of its pipeline only, no outputs of tasks"
        for kind, key in PLACEHOLDER.findall(f"{container.get('resources', '')} {container.get('image', '')}"):
            if key not in given.get(kind, {}):
                yield f"{where}: its resources read {key}, which is not an input of the task"


def _leaf_tasks(
    spec: dict[str, Any], components: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], str, dict[str, Any], str]]:
    """Yield every task that runs a container: (its DAG, its path, the task, the label of its executor)."""
    for name, dag in [("root", spec["root"]), *((name, c) for name, c in components.items() if "dag" in c)]:
        for key, task in dag["dag"]["tasks"].items():
            if label := components.get(task["componentRef"]["name"], {}).get("executorLabel"):
                yield dag, f"{name}/{key}", task, label


def _check_platform_inputs(
    spec: dict[str, Any], components: dict[str, Any], configured: dict[str, Any]
) -> Iterator[str]:
    for dag, where, _, label in _leaf_tasks(spec, components):
        for source in _sources_in(configured.get(label, {})):
            yield from _check_source(
                f"platform settings of {where}", "parameters", source, dag, components, dag["dag"]["tasks"]
            )


def _sources_in(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "taskOutputParameter" in value or "componentInputParameter" in value:
            yield value
        for item in value.values():
            yield from _sources_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from _sources_in(item)


def _cycle(tasks: dict[str, Any]) -> list[str]:
    """Find a cycle over edges and data, by removing tasks without open dependencies."""
    waiting = {key: {*_producers(task), *task.get("dependentTasks", [])} & set(tasks) for key, task in tasks.items()}
    while ready := [key for key, needs in waiting.items() if not needs & set(waiting)]:
        for key in ready:
            del waiting[key]
    return sorted(waiting)
