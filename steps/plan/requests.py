"""What the tasks request: their need, as far as it is known, at most their share of the instance type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steps.params.compute import SMALL_CPU, SMALL_MEMORY
from steps.plan.hardware import LEAST_MEMORY, MEMORY_SHARE, Hardware, Instance
from steps.plan.need import GIB, Need
from steps.reports.formats import size

# Task → its group of requests; the others request SMALL_CPU and SMALL_MEMORY.
GROUPS = {
    "import_model": "import", "import_adapter": "import", "adapter_tool": "import", "prepare_data": "prepare",
    "finetune": "finetune", "nodes": "nodes", "evaluate": "evaluate", "generate": "generate",
    "score": "prepare",
}  # fmt: skip
PARAMETERS = {
    "import": "instance_type_model_import", "prepare": "instance_type_preprocess", "finetune": "instance_type_finetune",
    "nodes": "instance_type_finetune", "evaluate": "instance_type_model_evaluation",
    "generate": "instance_type_inference",
}  # fmt: skip


def requested(most: Mapping[str, Hardware], needs: Mapping[str, Need]) -> dict[str, Hardware]:
    """Return the request of each group: what its tasks need, within the most that it may request."""
    return {
        group: hardware.fitted(need for task, need in needs.items() if GROUPS.get(task) == group)
        for group, hardware in most.items()
    }


def unused_gpu_notes(most: Mapping[str, Hardware], gpus: int) -> Iterator[str]:
    """Warn of GPUs that a written request has although the training uses none."""
    for group, hardware in most.items():
        if not gpus and hardware.gpu_type:
            yield (f"{PARAMETERS[group]}: {hardware.gpu_count} {hardware.gpu_type} is requested as written, but "
                   "number_of_gpu_to_use_finetuning=0 needs none: leave gpu out")  # fmt: skip


def small_machine_notes(
    most: Mapping[str, Hardware], needs: Mapping[str, Need], known: Mapping[str, Instance]
) -> Iterator[str]:
    """Warn of tasks that need more memory than they may request; `memory_problems` refuses the training itself.

    `known` are the instance types of which the smallest that is large enough is named.
    """
    for task, need in needs.items():
        hardware = most.get(GROUPS.get(task, ""))
        if hardware is None:
            continue
        least = max(need.least, LEAST_MEMORY * GIB)
        if least > hardware.memory_gib * GIB:
            parameter = PARAMETERS[GROUPS[task]]
            of = f"its share of {hardware.machine}" if hardware.machine else "as written"
            yield (f"{parameter}: {task} needs about {size(least)} of memory, and {hardware.memory} is {of}: "
                   f"name a larger one{_larger(hardware, least, known)}")  # fmt: skip


def _larger(hardware: Hardware, least: int, known: Mapping[str, Instance]) -> str:
    """Return the instance type with the least memory of which the same share has `least` bytes; empty without one."""
    gpus = int(hardware.gpu_count)
    fitting = sorted(
        (kind.memory, name)
        for name, kind in known.items()
        if (kind.gpus >= gpus if gpus else not kind.gpus)
        and int(kind.memory * MEMORY_SHARE * max(gpus, 1) / max(kind.gpus, 1)) * GIB >= least
    )
    return f", such as {fitting[0][1]}" if fitting else ""


def request_of(
    task: str, what: str, hardware: Mapping[str, Hardware], needs: Mapping[str, Need], nodes: int = 1
) -> dict[str, Any]:
    """Return a task's line of the plan: what it does, what it requests and why, and the disk that it needs.

    `nodes` is the number of pods of which each requests this.
    """
    need, found = needs[task], hardware.get(GROUPS.get(task, ""))
    return {
        "task": task,
        "what": what,
        "count": nodes,
        "cpu": found.cpu if found else SMALL_CPU,
        "memory": found.memory if found else SMALL_MEMORY,
        "gpu_type": found.gpu_type if found else "",
        "gpu_count": found.gpu_count if found else "0",
        "node_pool": next(iter(found.node_selector.values()), "any") if found else "any",
        "why": _why(need, found),
        "disk_bytes": need.disk,
        "more_disk": need.more_disk,
    }


def as_table(tasks: list[dict[str, Any]]) -> list[str]:
    """Format the requests for a terminal."""
    lines = [f"  {'requests on a cluster':<22} {'CPU':>4} {'memory':>7} {'disk':>9}  because of"]
    for task in tasks:
        gpu = f"{task['gpu_count']} {task['gpu_type']}; " if task["gpu_type"] else ""
        more = f"; disk: and {task['more_disk']}" if task["more_disk"] else ""
        name = f"{task['count']} × {task['task']}" if task.get("count", 1) > 1 else task["task"]
        lines.append(
            f"  {name:<22} {task['cpu']:>4} {task['memory']:>7} {size(task['disk_bytes']):>9}  {gpu}{task['why']}{more}"
        )
    return lines


def _why(need: Need, found: Hardware | None) -> str:
    """Say in a few words what a request follows from."""
    if found is None:
        return need.why
    if not found.machine:
        return f"as written; {need.why}"
    if need.memory is None:
        return f"share of {found.machine}: {need.why}"
    wanted = max(LEAST_MEMORY, -(-need.memory // GIB))
    return f"{need.why}{f', at most the share of {found.machine}' if wanted > found.memory_gib else ''}"
