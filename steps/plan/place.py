"""Checks that depend on this version and on where the pipeline runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from steps.artifacts import MANIFEST
from steps.errors import Problem, shown
from steps.params.compute import WORKSPACE
from steps.params.packages import packages_of
from steps.params.training import SWITCHES
from steps.plan.packages import missing_here
from steps.plan.seen import Seen, runs_here
from steps.sources.storage import local_path
from steps.tracking.target import MEANS_OFF, is_off, store_of
from steps.writing import mount_of, nearest_there, write_error

# Parameter → what to do instead. Remove a row once the feature is implemented.
UNBUILT = {
    "num_nodes_finetune": "use one node",
}
# Parameter → the form of such a name in Kubernetes.
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?")
KUBERNETES_NAMES = (
    ("mlflow_config_map", _OBJECT, "the name of a config map: lower-case letters, digits, - and dots"),
    ("huggingface_token_secret", _OBJECT, "the name of a secret: lower-case letters, digits, - and dots"),
    ("node_pool_label", _LABEL, "the key of a node label, such as node-pool or example.com/pool"),
)
LONGEST_NAME = 253


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
    if p.checkpoint_dir and local_path(p.checkpoint_dir) is not None:
        problems += _checkpoint_dir_problems(p.checkpoint_dir, here)
    if p.resume_from_checkpoint not in SWITCHES:
        problems += _checkpoint_problems(p.resume_from_checkpoint, here)
    if p.register_tuned_model and not (p.mlflow_server_uri or os.environ.get("MLFLOW_TRACKING_URI") or here):
        problems.append(
            Problem("PLAN-E0303", "mlflow_server_uri", "nothing, and no MLFLOW_TRACKING_URI in the environment",
                    "the MLflow server for the registered version", "set it, or register_tuned_model=false")
        )  # fmt: skip
    return problems


def name_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse names that Kubernetes cannot have; on a cluster they would end the pod before it starts."""
    p = seen.parameters
    for name, form, expected in KUBERNETES_NAMES:
        value = getattr(p, name)
        if not form.fullmatch(value) or len(value) > LONGEST_NAME:
            yield Problem("PLAN-E0366", name, shown(value), expected, "correct it, or leave it out")


def _checkpoint_dir_problems(value: str, here: bool) -> Iterator[Problem]:
    """Check that checkpoints can be written; on a cluster only if their volume is mounted into the plan's pod too."""
    path = Path(value.removeprefix("file://")).expanduser()
    if here and path.is_relative_to(WORKSPACE):  # kfp would replace it by a temporary folder
        yield Problem("PLAN-E0367", "checkpoint_dir", f"{value}, in the workspace of a run on a cluster",
                      "a folder of this machine", "leave it out: local runs keep checkpoints below --root")  # fmt: skip
        return
    mounted = here or mount_of(nearest_there(path.absolute())) != Path("/")
    if mounted and (error := write_error("PLAN-E0363", "checkpoint_dir", path)):
        yield from error.problems


def _checkpoint_problems(value: str, here: bool) -> Iterator[Problem]:
    """Check a checkpoint that is named by its path; on a cluster it may be on a volume that the plan does not have."""
    path = local_path(value)
    expected = "a checkpoint folder, which finetune wrote"
    if path is None:
        yield Problem("PLAN-E0364", "resume_from_checkpoint", value, f"{expected}, on a mounted volume",
                      "mount the bucket or a volume claim, and name the folder by its path")  # fmt: skip
    elif not path.is_dir() and (here or path.exists()):
        found = "a file" if path.exists() else "nothing"
        yield Problem("PLAN-E0364", "resume_from_checkpoint", f"{found} at {value!r}", expected,
                      "correct the path, or set resume_from_checkpoint=true for the newest one")  # fmt: skip
    elif path.is_dir() and not (path / MANIFEST).is_file():
        inside = sorted(path.glob("checkpoint-*"), key=lambda one: (len(one.name), one.name))
        fix = f"name one of them, such as {inside[-1]}" if inside else "name another folder"
        yield Problem("PLAN-E0364", "resume_from_checkpoint", f"{value!r} without {MANIFEST}", expected, fix)


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
