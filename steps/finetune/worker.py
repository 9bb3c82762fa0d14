"""What one process of a training in several does: take part, and tell its error."""

from __future__ import annotations

import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from steps.errors import NumericError, Preempted, StepError
from steps.finetune.curves import TrainingCurve
from steps.finetune.training import Training, train
from steps.launch.devices import refuse_missing_gpus
from steps.launch.group import Group, joined
from steps.launch.sharding import sharding_on_cpus
from steps.launch.told import error_file, tell_error
from steps.logs import log, log_plainly
from steps.outcome import failure
from steps.outlets import open_outlets
from steps.params.registration import MEANS_OFF
from steps.pruning import Pruned
from steps.running import follow_parent

AGREED = (Preempted, NumericError, Pruned)  # errors that all processes raise at the same step
SECONDS = 2.0  # for the error of a lost process to be written, which this one's own error follows from


def work(job: Path) -> None:
    """Take part in a training; exits with the code of its error, which is written beside the job first."""
    open_outlets()
    log_plainly()
    follow_parent()
    folder = job.parent
    rank = int(os.environ["RANK"])
    if rank:
        os.environ[MEANS_OFF] = "true"  # the first process tracks
        log.setLevel(logging.WARNING)
    training = Training.from_text(job.read_text(encoding="utf-8"))
    held = training.folder.lock_of_processes() if rank == 0 else None
    code = 0
    with joined() as group, sharding_on_cpus():
        try:
            if training.alive:
                training = _on_node(training, group)
            train(training, TrainingCurve(training.settings, training.folder))
        except AGREED as error:
            code = _tell(folder, rank, error)
            _wait_for_first(group)
        except Exception as error:
            code = _tell_or_follow(folder, rank, error)
    if held:
        held.close()
    sys.stdout.flush()
    # Threads and process groups of a training that failed may wait for processes that have gone.
    os._exit(code) if code else sys.exit(0)


def _on_node(training: Training, group: Group) -> Training:
    """Return the training as it goes on: nodes that are started again after a loss have the same job."""
    refuse_missing_gpus(training.settings.gpus)
    newest = training.folder.newest_of(training.task) if group.is_first else None
    return replace(training, resume=group.of_first(newest) or training.resume)


def _wait_for_first(group: Group) -> None:
    """Stay until the first process has sent its last records: the agent ends all when one has failed."""
    with suppress(RuntimeError):
        group.wait()


def _tell(folder: Path, rank: int, error: StepError | Pruned) -> int:
    tell_error(folder, rank, error)
    return Preempted.exit_code if isinstance(error, Pruned) else error.exit_code


def _tell_or_follow(folder: Path, rank: int, error: Exception) -> int:
    """Write an error, unless it follows from the loss of another process."""
    if isinstance(error, RuntimeError) and not isinstance(error, StepError):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if any(file != error_file(folder, rank) for file in folder.glob("rank-*.json")):
                return 1
            time.sleep(0.1)
    return _tell(folder, rank, failure(error, "finetune"))
