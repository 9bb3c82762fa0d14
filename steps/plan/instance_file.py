"""Read instance types from a user's file: name → cpu, memory, gpus, gpu_memory, gpu_type."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem, UserError, nearest, shown
from steps.params.text_file import decoded
from steps.remembered import remembered
from steps.sources import storage
from steps.sources.plain_yaml import plain_yaml

WHERE = "instance_types_file"
LARGEST = 256 * 1024  # bytes
# Key → (smallest number, what it is).
NUMBERS = {
    "cpu": (1, "CPUs of a machine, a whole number of at least 1"),
    "memory": (1, "GiB of a machine, a whole number of at least 1"),
    "gpus": (0, "GPUs of a machine, a whole number"),
    "gpu_memory": (0, "GiB of one GPU, a whole number"),
}
NEEDED = ("cpu", "memory")
GPU_TYPE = "gpu_type"
RESOURCE = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?")  # Kubernetes' form
EXAMPLE = "gpu-node: {cpu: 16, memory: 128, gpus: 1, gpu_memory: 80}"


@remembered
def read_instances(uri: str) -> dict[str, dict[str, Any]]:
    """Read the instance types of a YAML or JSON file at a path or URI, by name in lower case.

    Raises UserError with every problem of the file, and the errors of `storage.read_bytes`.
    """
    if problems := storage.check_uri(WHERE, uri):
        raise UserError(problems)
    content = storage.read_bytes(WHERE, uri, LARGEST + 1)
    if len(content) > LARGEST:
        raise _unreadable(f"{uri} with more than {LARGEST:,} bytes")
    types = _parsed(uri, decoded(f"{WHERE} {uri}", content))
    if not isinstance(types, dict) or not types:
        raise _unreadable(f"{uri}, which contains {shown(types)}")
    inner = types.get("instance_types")  # as in a cluster's profile
    types = inner if isinstance(inner, dict) and len(types) == 1 else types
    if problems := [problem for name, values in types.items() for problem in _problems(uri, name, values)]:
        raise UserError(problems)
    times = Counter(str(name).lower() for name in types)
    if twice := [name for name, count in times.items() if count > 1]:
        raise _unreadable(f"{uri} with {twice[0]} in two spellings, which are one name")
    return {str(name).lower(): dict(values) for name, values in types.items()}


def _parsed(uri: str, text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a key that is written twice, of which YAML keeps the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            times = Counter(str(key.value) for key, _ in node.value)
            if times and (key := max(times, key=lambda one: times[one])) and times[key] > 1:
                raise _unreadable(f"{uri} with the key {key[:80]} twice")
            return super().construct_mapping(node, deep)

    try:
        return plain_yaml(text, Loader)
    except ValueError as error:
        raise _unreadable(f"{uri}: {error}") from None


def _problems(uri: str, name: Any, values: Any) -> Iterator[Problem]:
    where = f"{WHERE} {uri}: {name}"
    if not isinstance(name, str) or not name.strip() or "=" in name:
        yield Problem("PLAN-E0207", where, shown(name), "the name of an instance type, without =", "rename it")
        return
    if not isinstance(values, Mapping):
        yield Problem("PLAN-E0207", where, shown(values), "its resources by name", f"write {EXAMPLE}")
        return
    known = [*NUMBERS, GPU_TYPE]
    for key in (key for key in values if key not in known):
        fix = nearest(str(key), known) or f"use the keys {', '.join(known)}"
        yield Problem("PLAN-E0207", f"{where}.{key}", "an unknown key", "a resource of a machine", fix)
    for key, (least, meaning) in NUMBERS.items():
        value = values.get(key, None if key in NEEDED else 0)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            found = "nothing" if value is None else shown(value)
            yield Problem("PLAN-E0207", f"{where}.{key}", found, meaning, f"write it, as in {EXAMPLE}")
    kind = values.get(GPU_TYPE, "nvidia.com/gpu")
    if not isinstance(kind, str) or not RESOURCE.fullmatch(kind):
        yield Problem("PLAN-E0207", f"{where}.{GPU_TYPE}", shown(kind), "the resource name of its GPUs, such as "
                      "nvidia.com/gpu or amd.com/gpu", "correct it, or leave it out")  # fmt: skip


def _unreadable(found: str) -> UserError:
    return UserError(
        Problem("PLAN-E0206", WHERE, found, "a YAML or JSON file with the resources of instance types by name",
                f"write one line for each: {EXAMPLE}")
    )  # fmt: skip
