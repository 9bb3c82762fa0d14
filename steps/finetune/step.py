"""Train, check the result and write it; only complete results with finite weights are written."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from steps.artifacts import CHECKPOINTS, Manifest, new_artifact, read_manifest
from steps.errors import Preempted
from steps.finetune.batch_size import free
from steps.finetune.checkpoints import (
    CheckpointFolder,
    finish,
    folder_for,
    is_finished,
    preempted,
    refuse_unwritable,
    remove_finished,
    resume_point,
    unfinish,
)
from steps.finetune.checkpoints.sealing import named_alike
from steps.finetune.curves import TrainingCurve
from steps.finetune.nodes import forget_nodes, train_on_nodes
from steps.finetune.packages import refuse_missing
from steps.finetune.processes import train_in_processes
from steps.finetune.result import is_written
from steps.finetune.training import Training, end_tracked_run, refuse_other_processes, train
from steps.launch.devices import refuse_missing_gpus
from steps.params.settings import FinetuneSettings
from steps.pruning import Pruned
from steps.stopping import Stopped, passing_over

log = logging.getLogger("finetune")


def finetune(
    settings: FinetuneSettings,
    model: Path,
    data: Path,
    tuned: Path,
    checkpoints: Path | None,
    report: Path,
    merged: Path | None = None,
    then: Callable[[Path], None] | None = None,
) -> Manifest:
    """Train `model` on the tokens of `data`.

    Writes `tuned` (kind model, or adapter with LoRA; both with history.json), `checkpoints` (the path of their folder,
    or those to keep if they are stored nowhere else; if None, these are in the folder checkpoints of `tuned`), an HTML
    `report`, and to `merged`, if given, the model with the adapter merged, or a reference to `tuned` if that is a
    model. A task of its own for merging would have to load base and adapter again, and write the result from another
    machine.

    `then` is called with the written `tuned` while the training still counts as unfinished: a task that is killed in it
    and started again goes on from the last checkpoint, or calls `then` at once if `tuned` is whole and no `merged` is
    wanted.

    Raises Preempted if stopped from outside, NumericError on NaN, OutOfResources if memory or disk runs out or
    requested GPUs are missing, UserError if resume_from_checkpoint cannot be fulfilled, Pruned, without a result, if
    the other trials of `settings.pruning` are better.
    """
    refuse_missing(settings)
    if settings.nodes is None:
        refuse_missing_gpus(settings.gpus)
    inputs = {"model": read_manifest(model, "model").digest, "data": read_manifest(data, "data").digest}
    kept = checkpoints or tuned / CHECKPOINTS
    scratch = (checkpoints or tuned).with_name(f"{kept.name}.unfinished")
    folder = folder_for(settings, inputs, scratch)
    if settings.checkpoints.checkpoint_dir:
        refuse_unwritable(folder)
    # A trial's result is kept, because `then` goes on with it.
    results = () if then else (tuned, merged)
    # Without result and checkpoints, a training that is stopped would begin again.
    to_the_end = nullcontext if then else passing_over
    with _nothing_left_when_stopped(folder, *results), folder.lock(tuned.absolute()):
        if settings.nodes is None:  # nodes go on while the task that follows them is started again
            folder.lock_of_processes().close()
        curve = TrainingCurve(settings, folder)
        if then is None or merged is not None or not is_written(tuned, settings, inputs):
            with _without_pruned(folder):
                _write(settings, inputs, model, data, tuned, merged, folder, curve)
        else:
            end_tracked_run(settings, inputs, folder)
        curve.finish()
        if then is not None:
            free()
            then(tuned)
        _write_report(tuned, report)
        with to_the_end():
            finish(folder.path)
            remove_finished(folder, settings.checkpoints)
            if settings.nodes is not None:
                forget_nodes(folder)
    with to_the_end():
        _keep_checkpoints(folder, scratch, tuned, checkpoints)
    return read_manifest(tuned)


def _write_report(tuned: Path, report: Path) -> None:
    from steps.reports import write_training_report

    write_training_report(tuned, report)


@contextmanager
def _nothing_left_when_stopped(folder: CheckpointFolder, *results: Path | None) -> Iterator[None]:
    """Delete the results of a task that is stopped in this block, and tell the checkpoint that leads to them again."""
    try:
        yield
    except (Preempted, KeyboardInterrupt) as error:
        for result in filter(None, results):
            shutil.rmtree(result, ignore_errors=True)
        if isinstance(error, Stopped) and (saved := folder.saved()):
            raise preempted("before or after the training", saved, "a whole result", error.number) from None
        raise


def _write(
    settings: FinetuneSettings,
    inputs: dict[str, str],
    model: Path,
    data: Path,
    tuned: Path,
    merged: Path | None,
    folder: CheckpointFolder,
    curve: TrainingCurve,
) -> None:
    """Train, or resume, and write `tuned` and `merged`; raises Pruned also if an earlier process was pruned."""
    task = tuned.absolute()
    retried = folder.was_begun_by(task)
    if settings.verl is not None:
        from steps.finetune.by_verl import resume_of, train_with_verl

        folder.begin(task)
        if settings.nodes is not None:
            train_on_nodes(Training(settings, inputs, model, data, tuned, task, merged, folder, None, retried))
        else:
            train_with_verl(settings, inputs, model, data, tuned, merged, folder, resume_of(settings, retried))
        return
    wanted = settings.checkpoints.resume_from_checkpoint
    if is_finished(folder.path):
        curve.refuse_pruned()
    resume = None if curve.is_pruned else resume_point(folder, wanted, task)
    if resume is not None:
        refuse_other_processes(resume, settings)
    unfinished = resume is not None or not is_finished(folder.path)
    same = retried or wanted in ("true", "auto") or (wanted != "false" and folder.holds(wanted))
    folder.begin(task)
    unfinish(folder.path)
    training = Training(settings, inputs, model, data, tuned, task, merged, folder, resume, same and unfinished)
    if settings.nodes is not None:
        train_on_nodes(training)
    elif settings.processes.count > 1:
        train_in_processes(training)
    else:
        train(training, curve)


@contextmanager
def _without_pruned(folder: CheckpointFolder) -> Iterator[None]:
    """Delete the checkpoints of a training that is pruned in this block: nothing goes on from them."""
    try:
        yield
    except Pruned as pruned:
        log.info("pruned: %s", pruned)
        folder.clear()
        finish(folder.path)
        raise


def _keep_checkpoints(folder: CheckpointFolder, scratch: Path, tuned: Path, checkpoints: Path | None) -> None:
    """Hand on the checkpoints that are kept, beside the result or in it."""
    if checkpoints:
        _write_checkpoints(folder, scratch, checkpoints)
    elif folder.path == scratch:
        _move_checkpoints(scratch, tuned / CHECKPOINTS)


def _write_checkpoints(folder: CheckpointFolder, scratch: Path, checkpoints: Path) -> None:
    """Write the checkpoints artifact: the checkpoints if only this pod's disk has them, else their folder's place."""
    with new_artifact(checkpoints, "checkpoints") as draft:
        if folder.path == scratch:
            _move_checkpoints(scratch, draft.path)
        else:
            draft.facts = {"folder": folder.place}


def _move_checkpoints(scratch: Path, place: Path) -> None:
    """Move the checkpoints that are kept, if any; the manifest of a tuned model does not name them."""
    for checkpoint in named_alike(scratch):
        place.mkdir(exist_ok=True)
        shutil.move(checkpoint, place / checkpoint.name)
    shutil.rmtree(scratch, ignore_errors=True)
