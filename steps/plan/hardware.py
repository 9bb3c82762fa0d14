"""Convert compute parameters to Kubernetes requests: CPU, memory, GPUs, node selector, tolerations."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from steps.errors import Problem, UserError, nearest, shown
from steps.params.compute import CLUSTER, SERVERLESS, SHARED_MEMORY, SMALL_CPU, ImportCompute
from steps.params.inference import InferenceCompute
from steps.params.pipeline import SupervisedParameters
from steps.plan.instance_file import read_instances
from steps.plan.need import GIB, Need
from steps.sources.storage import FORBIDDEN

NVIDIA, AMD = "nvidia.com/gpu", "amd.com/gpu"
NO_POOL = {SERVERLESS, "local", "cpu", ""}


@dataclass(frozen=True)
class Instance:
    """Resources of one machine of an instance type; memory in GiB."""

    cpu: int
    memory: int
    gpus: int = 0
    gpu_memory: int = 0
    gpu_type: str = NVIDIA


# Vendors' published sizes. Keys are lower case, because users spell the same type in several ways.
INSTANCES = {
    "standard_d12_v2": Instance(4, 28),
    "standard_d13_v2": Instance(8, 56),
    "standard_d14_v2": Instance(16, 112),
    "standard_ds12_v2": Instance(4, 28),
    "standard_e8s_v3": Instance(8, 64),
    "standard_nc6s_v3": Instance(6, 112, 1, 16),
    "standard_nc12s_v3": Instance(12, 224, 2, 16),
    "standard_nc24s_v3": Instance(24, 448, 4, 16),
    "standard_nc24rs_v3": Instance(24, 448, 4, 16),
    "standard_nc24ads_a100_v4": Instance(24, 220, 1, 80),
    "standard_nc48ads_a100_v4": Instance(48, 440, 2, 80),
    "standard_nc96ads_a100_v4": Instance(96, 880, 4, 80),
    "standard_nc40ads_h100_v5": Instance(40, 320, 1, 94),
    "standard_nc80adis_h100_v5": Instance(80, 640, 2, 94),
    "standard_nd40rs_v2": Instance(40, 672, 8, 32),
    "standard_nd96asr_v4": Instance(96, 900, 8, 40),
    "standard_nd96amsr_a100_v4": Instance(96, 1900, 8, 80),
    "standard_nd96isr_h100_v5": Instance(96, 1900, 8, 80),
    "standard_nd96isrf_h100_v5": Instance(96, 1900, 8, 80),
    "standard_nd96isr_mi300x_v5": Instance(96, 1850, 8, 192, AMD),
    "ml.g5.2xlarge": Instance(8, 32, 1, 24),
    "ml.g5.12xlarge": Instance(48, 192, 4, 24),
    "ml.p4d.24xlarge": Instance(96, 1152, 8, 40),
    "ml.p4de.24xlarge": Instance(96, 1152, 8, 80),
    "ml.p5.48xlarge": Instance(192, 2048, 8, 80),
}
# A request by its parts: what is written is what is asked for. Key → the form of its value.
RAW = "cpu=8,memory=64Gi,gpu=nvidia.com/gpu,gpus=1,gpu_memory=80Gi"
RAW_KEYS = {
    "cpu": re.compile(r"[1-9]\d{0,3}"),
    "memory": re.compile(r"[1-9]\d{0,5}Gi"),
    "gpu": re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?"),
    "gpus": re.compile(r"[1-9]\d{0,2}"),
    "gpu_memory": re.compile(r"[1-9]\d{0,3}Gi"),
}
LABEL = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?")  # Kubernetes' form of a label's value
# Nodes reserve part of their resources for the system; a request for all of it is never scheduled.
CPU_SHARE, MEMORY_SHARE = 0.9, 0.85
LEAST_MEMORY = 2  # GiB: KFP's launcher moves artifacts with the memory of the task's own container


@dataclass(frozen=True)
class Hardware:
    """Resource request of one task, in KFP's formats: strings, and JSON for node selector and tolerations."""

    cpu: str
    memory: str
    gpu_type: str
    """Empty without GPUs, so that a quota without this resource does not reject the task."""
    gpu_count: str
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]
    gpu_memory: int
    """GiB of one GPU; 0 if unknown or without GPU."""
    machine: str = ""
    """The instance type of which this is a share; empty for a request that was written by its parts."""

    @property
    def memory_gib(self) -> int:
        """The memory in GiB."""
        return int(self.memory.removesuffix("Gi"))

    def fitted(self, needs: Iterable[Need]) -> Hardware:
        """Return the request for what the largest of the tasks needs: at most this share of the instance type.

        A written request, and one for tasks of unknown size, stay as they are.
        """
        all_ = [(need.cpu, need.memory) for need in needs]
        sizes = [memory for _, memory in all_ if memory is not None]
        if not self.machine or not all_ or len(sizes) < len(all_):
            return self
        memory = max(LEAST_MEMORY, -(-max(sizes) // GIB))
        cpu = max(cpu for cpu, _ in all_)
        return replace(self, cpu=str(min(int(self.cpu), cpu)), memory=f"{min(self.memory_gib, memory)}Gi")


def import_hardware(parameters: ImportCompute) -> dict[str, Hardware]:
    """Return the most that tasks which process whole models without training request. Raises as `hardware_of`."""
    return {"import": _hardware(parameters, "compute_model_import", "instance_type_model_import", 0)}


def hardware_of(parameters: SupervisedParameters) -> dict[str, Hardware]:
    """Return the most that each task group (import, prepare, finetune, evaluate) requests.

    That is its share of the instance type, or the written request; `Hardware.fitted` lowers a share to the need.
    Raises UserError for unknown instance types, malformed requests, forbidden characters, and more GPUs than there are.
    """
    gpus = parameters.number_of_gpu_to_use_finetuning
    count = "number_of_gpu_to_use_finetuning"
    wanted = {
        "import": ("compute_model_import", "instance_type_model_import", 0, count),
        "prepare": ("compute_preprocess", "instance_type_preprocess", 0, count),
        "finetune": ("compute_finetune", "instance_type_finetune", gpus, count),
        "evaluate": ("compute_model_evaluation", "instance_type_model_evaluation", min(gpus, 1), count),
    }
    return _gathered(parameters, wanted)


def _gathered(parameters: ImportCompute, wanted: Mapping[str, tuple[str, str, int, str]]) -> dict[str, Hardware]:
    """Return the request of each group: (its parameters of pool and instance, GPUs, the parameter of their number)."""
    made: dict[str, Hardware] = {}
    problems: list[Problem] = []
    for group, (pool, instance, gpus, count) in wanted.items():
        try:
            made[group] = _hardware(parameters, pool, instance, gpus, count)
        except UserError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise UserError(problems)
    return made


def inference_hardware(parameters: InferenceCompute, gpus: int) -> dict[str, Hardware]:
    """Return the most that each task group of batch inference (import, prepare, generate) requests.

    Raises as `hardware_of`.
    """
    count = "number_of_gpu_to_use_inference"
    wanted = {
        "import": ("compute_model_import", "instance_type_model_import", 0, count),
        "prepare": ("compute_preprocess", "instance_type_preprocess", 0, count),
        "generate": ("compute_inference", "instance_type_inference", gpus, count),
    }
    return _gathered(parameters, wanted)


def evaluation_hardware(parameters: SupervisedParameters, gpus: int) -> Hardware:
    """Return the most that evaluate requests with `gpus` GPUs. Raises as `hardware_of`."""
    return _hardware(parameters, "compute_model_evaluation", "instance_type_model_evaluation", gpus)


def gpus_of(parameters: ImportCompute, instance_name: str) -> int:
    """Return the GPUs of the machine that a parameter names; those of a written request."""
    asked = getattr(parameters, instance_name)
    if "=" in asked:
        return _raw_request(instance_name, asked, 1).gpus
    return instance_types(parameters)[asked.lower()].gpus


def _hardware(
    parameters: ImportCompute, pool_name: str, instance_name: str, gpus: int,
    count_name: str = "number_of_gpu_to_use_finetuning",
) -> Hardware:  # fmt: skip
    pool = getattr(parameters, pool_name)
    if bad := sorted((FORBIDDEN | {"'"}) & set(pool)):
        raise UserError(
            Problem("PLAN-E0203", pool_name, f"{pool!r} with {bad[0]!r}", "no backslash, quote or control character",
                    "use the node pool's exact name")
        )  # fmt: skip
    if not LABEL.fullmatch(pool):
        raise UserError(
            Problem("PLAN-E0204", pool_name, shown(pool), "at most 63 letters, digits, dots, _ and -, as in the value "
                    "of a node label", "use the node pool's exact name")
        )  # fmt: skip
    asked = getattr(parameters, instance_name)
    if "=" in asked:
        whole = _raw_request(instance_name, asked, gpus)
    else:
        whole = _share(instance_name, asked, gpus, instance_types(parameters))
    if gpus > whole.gpus:
        raise UserError(
            Problem("PLAN-E0202", instance_name, f"{asked} with {whole.gpus} GPUs",
                    f"at least {gpus}", f"choose another instance type, or lower {count_name}")
        )  # fmt: skip
    return Hardware(
        cpu=str(whole.cpu),
        memory=f"{whole.memory}Gi",
        gpu_type=whole.gpu_type if whole.gpus else "",
        gpu_count=str(whole.gpus),
        node_selector=cluster().get("node_selector", {})
        | ({} if pool in NO_POOL else {parameters.node_pool_label: pool}),
        tolerations=[{"key": whole.gpu_type, "operator": "Exists", "effect": "NoSchedule"}] if whole.gpus else [],
        gpu_memory=whole.gpu_memory if whole.gpus else 0,
        machine="" if "=" in asked else asked,
    )


def small_hardware(memory: int) -> Hardware:
    """Return the request of a task that trains nothing itself, on any node, and needs `memory` bytes."""
    gib = max(LEAST_MEMORY, -(-memory // GIB))
    return Hardware(SMALL_CPU, f"{gib}Gi", "", "0", dict(cluster().get("node_selector", {})), [], 0)


def cluster() -> dict[str, Any]:
    """Return what a cluster's profile says of its nodes (`pipelines/profiled.py`); empty without a profile."""
    return dict(json.loads(os.environ.get(CLUSTER, "{}")))


def shared_memory() -> str:
    """Return the size of /dev/shm in a task's own pod with GPUs."""
    return str(cluster().get("shared_memory", SHARED_MEMORY))


def instance_types(parameters: ImportCompute) -> dict[str, Instance]:
    """Return the known instance types by name in lower case.

    Those of the cluster's profile override the vendors', those of instance_types_file both. Raises as `read_instances`.
    """
    own = {name.lower(): kind for name, kind in cluster().get("instance_types", {}).items()}
    if parameters.instance_types_file:
        own |= read_instances(parameters.instance_types_file)
    return INSTANCES | {name: Instance(**kind) for name, kind in own.items()}


def _share(parameter: str, text: str, gpus: int, known: Mapping[str, Instance]) -> Instance:
    """Return the share of an instance type for a task that uses `gpus` of its GPUs; the whole of it without GPUs."""
    instance = known.get(text.lower())
    if instance is None:
        fix = nearest(text.lower(), known) or f"write the resources: {RAW}"
        raise UserError(Problem("PLAN-E0201", parameter, shown(text), "a known instance type", fix))
    share = max(gpus, 1) / max(instance.gpus, 1)
    return Instance(
        max(1, int(instance.cpu * CPU_SHARE * share)),
        max(1, int(instance.memory * MEMORY_SHARE * share)),
        min(gpus, instance.gpus),
        instance.gpu_memory,
        instance.gpu_type,
    )


def _raw_request(parameter: str, text: str, gpus: int) -> Instance:
    """Read resources that are requested exactly as written; `gpus`, the number that the task uses, is the default."""
    pairs = [part.strip().partition("=")[::2] for part in text.split(",")]
    parts = {key.strip(): value.strip() for key, value in pairs}
    if fix := _malformed(parts, repeated=len(parts) < len(pairs)):
        raise UserError(Problem("PLAN-E0205", parameter, shown(text), RAW, fix))
    gpu_memory = int(parts.get("gpu_memory", "0Gi").removesuffix("Gi"))
    wanted = int(parts.get("gpus", gpus)) if "gpu" in parts else 0
    memory = int(parts["memory"].removesuffix("Gi"))
    return Instance(int(parts["cpu"]), memory, wanted, gpu_memory, parts.get("gpu", NVIDIA))


def _malformed(parts: dict[str, str], repeated: bool) -> str:
    """Return how to correct the parts of a request; empty if they are right."""
    if unknown := [key for key in parts if key not in RAW_KEYS]:
        return nearest(unknown[0], RAW_KEYS) or f"use the keys {', '.join(RAW_KEYS)}"
    if any(not RAW_KEYS[key].fullmatch(value) for key, value in parts.items()):
        return "write whole numbers, and memory in Gi"
    if repeated:
        return "write each key once"
    if lacks := [key for key in ("cpu", "memory") if key not in parts]:
        return f"add {lacks[0]}="
    return f"add gpu={NVIDIA}" if {"gpus", "gpu_memory"} & set(parts) and "gpu" not in parts else ""
