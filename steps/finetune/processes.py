"""Train in several processes on this node: start them, start them again after a loss, and raise their error."""

from __future__ import annotations

import logging
import shutil
import signal
from dataclasses import replace
from pathlib import Path

from steps.errors import Outage, OutOfResources, Preempted, Problem, StepError
from steps.finetune.batch_size import fitted
from steps.finetune.training import Training, strategy_of
from steps.launch.devices import refuse_shared_gpus
from steps.launch.group import patience_seconds
from steps.launch.several_processes import Ended, run_processes
from steps.launch.told import error_file, first_error, own_error, untold
from steps.params.settings import FinetuneSettings

log = logging.getLogger("finetune")

FOLDER = "processes"  # below the folder of checkpoints
JOB = "training.json"
MODULE = "steps.finetune.process"
RESTARTS = 2  # after a process was killed, such as by a node that needs memory


def train_in_processes(training: Training) -> None:
    """Train in the processes that the settings ask for, and write `tuned` and `merged`.

    A training that loses a process goes on from its newest checkpoint, at most RESTARTS times. Raises as `train`.
    """
    asked = training.settings.processes
    refuse_shared_gpus(asked.per_node)
    log.info("training in %d processes (%s)", asked.count, strategy_of(training.settings))

    def attempt(fitting: FinetuneSettings) -> None:
        again = fitting is not training.settings
        newest = training.folder.newest_of(training.task) if again else None
        _until_whole(replace(training, fitting=fitting, resume=newest or training.resume))

    try:
        fitted(training.settings, attempt)
    except Preempted as error:  # the processes know the folder here, which may be of this pod
        error.resume_from = training.folder.saved() or error.resume_from
        raise


def _until_whole(training: Training) -> None:
    for restart in range(RESTARTS + 1):
        ended = _run(training)
        if not ended:
            return
        lost = next((one for one in ended if one.killed), None)
        if lost is None or restart == RESTARTS:
            raise _error_of(training, lost or next((one for one in ended if one.code > 0), ended[0]))
        newest = training.folder.newest_of(training.task) or training.resume
        log.warning("WARNING process %d was killed (%s): going on from %s", lost.rank, _signal(lost),
                    newest.name if newest else "step 0")  # fmt: skip
        training = replace(training, resume=newest, continues=True)


def _run(training: Training) -> list[Ended]:
    """Run the processes once; return those that were killed. Raises the error of the first one that failed."""
    folder = training.folder.path / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / JOB).write_text(training.as_text(), encoding="utf-8")
    try:
        outcome = run_processes(MODULE, [str(folder / JOB)], training.settings.processes.per_node)
        ended = outcome.failed
        if ended and outcome.asked_to_stop:
            raise own_error(folder) or stopped_at_start()
        if still := next((one for one in ended if one.code == Outage.exit_code and not _told(folder, one)), None):
            raise _error_of(training, still)  # the agent has killed those that hung
        if any(one.killed for one in ended):
            return ended
        if ended and (error := first_error(folder)):
            raise error
        if ended and all(one.code in (Preempted.exit_code, -signal.SIGTERM) for one in ended):
            raise stopped_at_start()
        return ended
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _told(folder: Path, one: Ended) -> bool:
    return error_file(folder, one.rank).exists()


def stopped_at_start() -> Preempted:
    """Return the error of a training whose processes were stopped before they had begun."""
    return Preempted(
        Problem("TRAIN-E1431", "before the first step", "a request to stop; saved nothing new", "the whole training",
                "run again with resume_from_checkpoint=true")
    )  # fmt: skip


def _error_of(training: Training, one: Ended) -> StepError:
    if one.killed:
        return OutOfResources(
            Problem("TRAIN-E0503", f"process {one.rank}", f"killed from outside ({_signal(one)}), {RESTARTS + 1} times",
                    "the end of the training", "give finetune more memory, or lower per_device_train_batch_size",
                    why="the usual reason is a lack of memory")
        )  # fmt: skip
    if one.code == Outage.exit_code:
        return Outage(
            Problem("TRAIN-E0431", f"process {one.rank}", f"no progress for {patience_seconds():.0f} s",
                    "processes that reach the same step", "look in the log where each of them stood, and run again",
                    why="one of them hangs, or cannot reach the others"),
            transient=False,
        )  # fmt: skip
    return untold(training.folder.path, f"process {one.rank}", one.code)


def _signal(one: Ended) -> str:
    return signal.Signals(-one.code).name
