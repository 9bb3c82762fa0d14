"""Sets name, resources, node placement and secrets of a task, most of them from the plan's outputs at run time."""

from typing import Any

from kfp import dsl, kubernetes

from pipelines.profile import Profile
from steps.params.compute import SMALL_CPU, SMALL_MEMORY
from steps.params.registration import MEANS_OFF, TRACKING_VARIABLES

HUB_TOKEN = "HF_TOKEN"
ENDPOINT_KEY = "OPENAI_API_KEY"
SERVER = TRACKING_VARIABLES[:1]  # for a task that only reads from it, as import_model does
SERVER_OR_OFF = (*SERVER, MEANS_OFF)
PLAIN = Profile()  # what a cluster's own profile replaces in the compiled pipeline


def on_cpu(task: dsl.PipelineTask, plan: dsl.PipelineTask, group: str) -> dsl.PipelineTask:
    """Set a task's CPU, memory and node selector to the plan's values for a group (import, prepare, …)."""
    decided = [plan.outputs[f"{group}_{what}"] for what in ("cpu", "memory", "node_selector")]
    cpu, memory, nodes = decided
    # Without this the SDK does not record that the task depends on the plan, and may start it first.
    task.register_pipeline_channels(decided)
    task.set_cpu_limit(cpu).set_memory_limit(memory)
    kubernetes.add_node_selector_json(task, nodes)
    return hardened(task)


def on_gpu(task: dsl.PipelineTask, plan: dsl.PipelineTask, group: str) -> dsl.PipelineTask:
    """Do the same as `on_cpu`, and add GPUs, a large /dev/shm and the tolerations of GPU nodes."""
    decided = [plan.outputs[f"{group}_{what}"] for what in ("gpu_type", "gpu_count", "tolerations")]
    kind, count, tolerations = decided
    task.register_pipeline_channels(decided)
    task.set_accelerator_type(kind).set_accelerator_limit(count)
    kubernetes.add_toleration_json(task, tolerations)
    kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=PLAIN.shared_memory)
    return on_cpu(task, plan, group)


def small(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Set one CPU and little memory: for plan, report and register_model."""
    return hardened(task.set_cpu_limit(SMALL_CPU).set_memory_limit(SMALL_MEMORY))


def with_hub_token(task: dsl.PipelineTask, secret: Any) -> dsl.PipelineTask:
    """Set HF_TOKEN from the secret, to read gated models and data sets; the secret is optional."""
    kubernetes.use_secret_as_env(task, secret, {"token": HUB_TOKEN}, optional=True)
    return task


def with_endpoint_key(task: dsl.PipelineTask, secret: Any) -> dsl.PipelineTask:
    """Set OPENAI_API_KEY from the secret, for a server that asks for a key; the secret is optional."""
    kubernetes.use_secret_as_env(task, secret, {"token": ENDPOINT_KEY}, optional=True)
    return task


def with_tracking(
    task: dsl.PipelineTask, config_map: Any, names: tuple[str, ...] = TRACKING_VARIABLES
) -> dsl.PipelineTask:
    """Set the MLflow variables that a task reads from the config map, which is optional; parameters override them."""
    kubernetes.use_config_map_as_env(task, config_map, {name: name for name in names}, optional=True)
    return task


def named(task: dsl.PipelineTask, name: str) -> dsl.PipelineTask:
    """Set the name that KFP's interface shows, which cuts it at about 22 characters."""
    return task.set_display_name(name)


def hardened(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Run as a non-root user, as the `restricted` pod security standard requires."""
    kubernetes.set_security_context(task, **PLAIN.pod_security.model_dump(), run_as_non_root=True)
    return task


def uncached(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Disable caching for a task, because it reads or changes something outside the run."""
    return task.set_caching_options(False)
