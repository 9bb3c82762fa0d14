"""The checkpoint from which a training is resumed, or why there is none."""

from __future__ import annotations

import json
import logging
import signal
from pathlib import Path
from typing import Any

from steps.errors import Interrupted, Preempted, Problem, UserError
from steps.finetune.checkpoints.folder import CheckpointFolder
from steps.models.layout import refuse_unsafe_weights
from steps.tracking import flat

log = logging.getLogger("finetune")


def resume_point(folder: CheckpointFolder, wanted: str, tuned: Path | None = None) -> Path | None:
    """Return the checkpoint to resume, by resume_from_checkpoint: false, true, auto, or a checkpoint's folder or URI.

    A task that is started again (`tuned` is the path of its result) resumes from its own newest checkpoint, whatever is
    wanted. Raises UserError if `true` finds only checkpoints of other settings or data, or one of those is named (with
    the differences), if a named folder is not a valid checkpoint, or if all checkpoints are invalid.
    """
    again = tuned is not None and folder.was_begun_by(tuned)
    if again and tuned and (own := folder.newest_of(tuned)):
        refuse_unsafe_weights(own)
        log.info("this task was started again: resuming from %s", own)
        return own
    if wanted == "false":
        if again:
            log.info("this task was started again before its first checkpoint: starting at step 0")
        folder.clear()
        return None
    if wanted not in ("true", "auto"):
        _refuse_another(folder, wanted)
        named = folder.named(wanted)
        refuse_unsafe_weights(named)
        return named
    found = folder.newest(strict=wanted == "true" and not again)
    if found is not None:
        refuse_unsafe_weights(found)
        log.info("resuming from %s", found)
        return found
    if wanted == "true" and (others := _other_trainings(folder)):
        raise UserError(
            Problem("CHECKPOINT-E0102", "resume_from_checkpoint", f"checkpoints of another training: {others[0]}",
                    "the same settings and data", "restore them, or set resume_from_checkpoint=false to start again at "
                    "step 0", count=len(others))
        )  # fmt: skip
    log.info("nothing to resume: starting at step 0")
    return None


def _refuse_another(folder: CheckpointFolder, wanted: str) -> None:
    """Raise UserError if a checkpoint that is named stands beside the settings of another training.

    Its optimizer and schedule are those of that training: what followed would be neither one nor the other.
    """
    for identity in folder.identity_beside(wanted):
        if (difference := _difference(folder, identity))[0]:
            raise UserError(
                Problem("CHECKPOINT-E0106", "resume_from_checkpoint", f"{wanted}, of another training: {difference[1]}",
                        "a checkpoint of the same settings and data", "restore them, or start from its weights with a "
                        "new training", why="optimizer and schedule in it are those of that training")
            )  # fmt: skip


def _other_trainings(folder: CheckpointFolder) -> list[str]:
    """Describe how other unfinished trainings differ from this one, the most similar first."""
    return [text for _, text in sorted(_difference(folder, identity) for identity in folder.others())]


def _difference(folder: CheckpointFolder, identity: dict[str, Any]) -> tuple[int, str]:
    """Return in how many values another training differs from this one, and the first of them in words."""
    mine, other = flat(json.loads(json.dumps(folder.identity))), flat(identity)
    changed = sorted(key for key in other.keys() | mine.keys() if other.get(key) != mine.get(key))
    said = (f"{key.rsplit('.', 1)[-1]} was {other.get(key)}, is {mine.get(key)}" for key in changed[:3])
    return len(changed), ", ".join(said)


def preempted(at: str, saved: str, expected: str, number: int = signal.SIGTERM) -> Preempted:
    """Return the error of a training that a signal stopped; `saved` is the checkpoint that it goes on from, if any."""
    where = saved.rpartition("/")[2] or "nothing, as it was stopped before the first checkpoint"
    kind = Interrupted if number == signal.SIGINT else Preempted
    return kind(
        Problem("TRAIN-E1431", at, f"a request to stop; saved {where}", expected,
                "run again with resume_from_checkpoint=true"),
        resume_from=saved,
    )  # fmt: skip
