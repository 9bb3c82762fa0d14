"""Hardware and secrets on a task, from what the plan decided at run time."""

from typing import Any

from kfp import dsl, kubernetes

from steps.params.compute import SMALL_CPU, SMALL_MEMORY
from steps.params.registration import TRACKING_VARIABLES

SHARED_MEMORY = "8Gi"  # /dev/shm of training pods; its size cannot be a run-time value


def on_cpu(task: dsl.PipelineTask, plan: dsl.PipelineTask, group: str) -> dsl.PipelineTask:
    """Give a task the CPU, memory and node pool that the plan chose for a group (import, prepare, …)."""
    decided = [plan.outputs[f"{group}_{what}"] for what in ("cpu", "memory", "node_selector")]
    cpu, memory, nodes = decided
    # Without this the SDK forgets that the task needs the plan's values, and may start it first.
    task.register_pipeline_channels(decided)
    task.set_cpu_limit(cpu).set_memory_limit(memory)
    kubernetes.add_node_selector_json(task, nodes)
    return hardened(task)


def on_gpu(task: dsl.PipelineTask, plan: dsl.PipelineTask, group: str) -> dsl.PipelineTask:
    """Give a task GPUs too, with a large /dev/shm and the tolerations of GPU nodes."""
    decided = [plan.outputs[f"{group}_{what}"] for what in ("gpu_type", "gpu_count", "tolerations")]
    kind, count, tolerations = decided
    task.register_pipeline_channels(decided)
    task.set_accelerator_type(kind).set_accelerator_limit(count)
    kubernetes.add_toleration_json(task, tolerations)
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=SHARED_MEMORY)
    return on_cpu(task, plan, group)


def small(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """One CPU and little memory: plan, report, register."""
    return hardened(task.set_cpu_limit(SMALL_CPU).set_memory_limit(SMALL_MEMORY))


def with_hub_token(task: dsl.PipelineTask, secret: Any) -> dsl.PipelineTask:
    """Let a task read gated models; a cluster without the secret runs it without."""
    kubernetes.use_secret_as_env(task, secret, {"token": "HF_TOKEN"}, optional=True)
    return task


def with_tracking(task: dsl.PipelineTask, config_map: Any) -> dsl.PipelineTask:
    """Let a task know the cluster's MLflow; parameters win over it, and a cluster without the config map is fine."""
    kubernetes.use_config_map_as_env(task, config_map, {name: name for name in TRACKING_VARIABLES}, optional=True)
    return task


def hardened(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run as a normal user, as the `restricted` pod security standard asks."""
    kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)
    return task


def uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run a task every time: what it looks at, or changes, lies outside of the run."""
    return task.set_caching_options(False)
