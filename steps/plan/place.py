"""Checks that depend on this version and on where the pipeline runs."""

from __future__ import annotations

import os
from collections.abc import Iterator

from steps.errors import Problem, shown
from steps.params.packages import packages_of
from steps.plan.packages import missing_here
from steps.plan.seen import Seen, runs_here
from steps.sources.storage import local_path
from steps.tracking.target import MEANS_OFF, is_off, store_of

# Parameter → what to do instead. Remove a row once the feature is implemented.
UNBUILT = {
    "num_nodes_finetune": "use one node",
}


def unbuilt_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse parameters that are not implemented and would otherwise be ignored."""
    parameters = seen.parameters
    for name, instead in UNBUILT.items():
        value = getattr(parameters, name)
        default = type(parameters).model_fields[name].default
        if value != default:
            yield Problem("PLAN-E0101", name, shown(value), repr(default), instead,
                          why="other values are not implemented in this version")  # fmt: skip
    if parameters.number_of_gpu_to_use_finetuning > 1:
        yield Problem(
            "PLAN-E0101",
            "number_of_gpu_to_use_finetuning",
            str(parameters.number_of_gpu_to_use_finetuning),
            "0 or 1",
            "use one GPU with a larger gradient_accumulation_steps",
            why="training on several GPUs is not implemented in this version",
        )


def place_problems(seen: Seen) -> list[Problem]:
    """Check that checkpoints, resuming and registration are possible where the pipeline runs."""
    p, problems = seen.parameters, []
    here = runs_here()
    if p.checkpoint_dir and local_path(p.checkpoint_dir) is None:
        problems.append(
            Problem("PLAN-E0301", "checkpoint_dir", p.checkpoint_dir, "a folder on a mounted volume",
                    "mount the bucket or a volume claim, and set checkpoint_dir to its path")
        )  # fmt: skip
    if p.resume_from_checkpoint != "false" and not (p.checkpoint_dir or here):
        problems.append(
            Problem("PLAN-E0302", "resume_from_checkpoint", f"{p.resume_from_checkpoint} without checkpoint_dir",
                    "a checkpoint_dir that is kept after the pod ends", "set checkpoint_dir to a mounted volume")
        )  # fmt: skip
    if p.register_tuned_model and not (p.mlflow_server_uri or os.environ.get("MLFLOW_TRACKING_URI") or here):
        problems.append(
            Problem("PLAN-E0303", "mlflow_server_uri", "nothing, and no MLFLOW_TRACKING_URI in the environment",
                    "the MLflow server for the registered version", "set it, or register_tuned_model=false")
        )  # fmt: skip
    return problems


def package_problems(seen: Seen) -> list[Problem]:
    """Check that required packages are installed; the image has all of them, this machine may not."""
    p = seen.parameters
    return [
        Problem("PLAN-E0311", where, f"{value}, but the package {package} is missing", f"{package} installed",
                f"install it (pip install {package}), or {otherwise}")
        for where, value, package, otherwise in packages_of(p, p, p.apply_deepspeed)
        if missing_here(package)
    ]  # fmt: skip


def tracking_notes(seen: Seen) -> Iterator[str]:
    """Note when metrics are not sent to the given server."""
    given = seen.parameters.mlflow_server_uri
    if is_off():
        yield (f"{MEANS_OFF} is set: metrics go into history.json and the reports only; "
               "the tuned model is still registered")  # fmt: skip
    if (store := store_of(given)) != given:
        yield f"mlflow_server_uri: {store} is used, because MLflow 3 does not support plain folders"
