"""Train on several nodes: hand model, rows and settings to them, and bring the result back.

All nodes and this task see one folder, the folder of checkpoints: it holds copies of model and rows, named by their
digests so that trainings share them, and the result until this task has taken it.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

from steps.artifacts import read_manifest
from steps.errors import StepError
from steps.finetune.checkpoints import CheckpointFolder
from steps.finetune.processes import FOLDER, JOB, MODULE
from steps.finetune.result import is_written
from steps.finetune.training import Training, merge_adapter
from steps.launch.told import first_error
from steps.launch.trainjob import Times, run_on_nodes
from steps.pruning import Pruned

log = logging.getLogger("finetune")

INPUTS = "inputs"  # below the folder that trainings share
RESULT = "result"  # below the folder of checkpoints
LEASE = "followed"  # the sign of life of the task that follows the training
MANIFEST_OF_JOB = "trainjob.yaml"
COMMAND = ("python", "-m", "steps.launch.node", "-m", MODULE)
OF_VERL = ("python", "-m", "steps.finetune.verl_node")
SECRET = "secret"  # file beside the job: what the nodes of a training with verl know each other by


def train_on_nodes(training: Training, times: Times | None = None) -> None:
    """Train on the nodes that the settings ask for, and write `tuned` and `merged`.

    A task that is started again follows the job of the first try, or takes its result. Raises as `train`, and as
    `run_on_nodes`.
    """
    folder, nodes = training.folder.path, training.settings.nodes
    assert nodes is not None
    place, result = folder / FOLDER, folder / RESULT
    job = replace(
        training,
        model=_shared(training.model, "model", training),
        data=_shared(training.data, "data", training),
        tuned=result,
        merged=None,
        alive=str(folder / LEASE),
    )

    def before_start() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / JOB).write_text(job.as_text(), encoding="utf-8")
        (place / SECRET).touch(mode=0o600)
        (place / SECRET).write_text(secrets.token_hex(32), encoding="utf-8")

    def told() -> StepError | None:
        error = first_error(place)
        return None if isinstance(error, Pruned) else error  # the plan refuses several nodes in a sweep

    command = COMMAND if training.settings.verl is None else OF_VERL
    if not is_written(result, training.settings, training.inputs):
        run_on_nodes(
            [*command, str(place / JOB)], nodes, training.settings.processes, training.folder.key,
            folder / MANIFEST_OF_JOB, str(folder / LEASE), told, before_start, times or Times(),
        )  # fmt: skip
    _take(result, training.tuned)
    if (told_job := folder / MANIFEST_OF_JOB).is_file():
        shutil.copyfile(told_job, training.tuned / MANIFEST_OF_JOB)
    if training.merged is not None:
        merge_adapter(training.model, training.tuned, training.merged)


def forget_nodes(folder: CheckpointFolder) -> None:
    """Delete what nodes left of a training whose result was taken."""
    for leftover in (FOLDER, RESULT):
        shutil.rmtree(folder.path / leftover, ignore_errors=True)


def _shared(source: Path, kind: str, training: Training) -> Path:
    """Return a copy of an artifact that all nodes see, made now unless an earlier training made it."""
    target = training.folder.shared / INPUTS / kind / training.inputs[kind][:16]
    try:
        if read_manifest(target, kind).digest == training.inputs[kind]:
            return target
    except StepError:
        shutil.rmtree(target, ignore_errors=True)
    log.info("copying the %s to %s", kind, target)
    _copy(source, target)
    return target


def _take(result: Path, tuned: Path) -> None:
    """Copy the result of the nodes to where this task writes it."""
    read_manifest(result, ("adapter", "model"))
    _copy(result, tuned)


def _copy(source: Path, target: Path) -> None:
    """Copy an artifact; it appears complete or not at all."""
    draft = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(source, draft)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(draft, target)
