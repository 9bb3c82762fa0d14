"""Folders of checkpoints, and the checkpoint from which a training is resumed.

Every training has a folder named by the digest of everything that affects its result. A checkpoint is valid only if it
has a manifest and all files match it, so a kill during a save loses only the steps since the previous checkpoint. The
folder remembers the task that uses it, by the path of its result, so that this task resumes when it is started again.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from steps.artifacts import MANIFEST, Manifest, describe_files, follow_umask, verified, write_durably
from steps.errors import Outage, Problem, StepError, UserError
from steps.models.layout import refuse_unsafe_weights
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams
from steps.running import LOCAL_ROOT
from steps.tracking import flat
from steps.writing import write_error

log = logging.getLogger("finetune")

SETTINGS_FILE = "training.json"
TASK_FILE = "task.json"
SHARED = "shared"  # beside the pipelines' folders
LOCK_SECONDS = 60  # a killed run needs some time to exit


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one training."""

    path: Path
    identity: dict[str, Any]
    """Everything that affects the result: settings and input digests."""
    shared: Path
    """Folder for files that other trainings can use too."""

    @property
    def key(self) -> str:
        """The digest of everything that affects the result."""
        return sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]

    def newest(self, strict: bool = False) -> Path | None:
        """Return the newest valid checkpoint; invalid ones are logged and skipped.

        Raises UserError if none is valid and one is damaged or, with `strict`, was interrupted while it was saved: a
        start from step 0 would silently lose progress.
        """
        broken = []
        for candidate in sorted(self.path.glob("checkpoint-*"), key=_step, reverse=True):
            if not (error := _error_in(candidate)):
                return candidate
            if strict or (candidate / MANIFEST).is_file():
                broken.append(f"{candidate.name} ({error})")
        if broken:
            raise UserError(
                Problem("CHECKPOINT-E0101", str(self.path), f"{'; '.join(broken)}", "at least one valid checkpoint",
                        "set resume_from_checkpoint=false to start again at step 0")
            )  # fmt: skip
        return None

    def newest_of(self, tuned: Path) -> Path | None:
        """Return the newest valid checkpoint that the task with the result `tuned` saved."""
        own = [one for one in self.path.glob("checkpoint-*") if _facts(one).get("task") == str(tuned)]
        return next((one for one in sorted(own, key=_step, reverse=True) if not _error_in(one)), None)

    def begin(self, tuned: Path) -> None:
        """Remember the task that uses this folder by the path of its result."""
        write_durably(self.path / TASK_FILE, json.dumps({"tuned": str(tuned)}, indent=1))

    def was_begun_by(self, tuned: Path) -> bool:
        """Return whether the task with the result `tuned` used this folder last, and has not ended with it.

        KFP starts an evicted pod again with the same paths; another run has other paths.
        """
        file = self.path / TASK_FILE
        ended = tuned.exists() and is_finished(self.path)
        return not ended and file.is_file() and json.loads(file.read_text()).get("tuned") == str(tuned)

    def clear(self) -> None:
        """Delete all checkpoints, so that those of an older training are not resumed."""
        for checkpoint in self.path.glob("checkpoint-*"):
            _delete(checkpoint)

    def lock(self) -> IO[str]:
        """Lock the folder against other processes; the lock is held until the returned file is closed."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = open(self.path / ".lock", "w")  # noqa: SIM115  (held open on purpose)
        for _ in range(LOCK_SECONDS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(1)
        else:
            raise Outage(
                Problem("CHECKPOINT-E0401", str(self.path), "another process with the same training", "one process",
                        "wait for it, or stop it"),
                transient=False,  # it was waited for
            )  # fmt: skip
        write_durably(self.path / SETTINGS_FILE, json.dumps(self.identity, indent=1, sort_keys=True))
        return file


def folder_for(settings: FinetuneSettings, inputs: dict[str, str], fallback: Path) -> CheckpointFolder:
    """Return the folder of a training: below checkpoint_dir, else below the local root, else `fallback`.

    Pruning is left out: it ends a training, or changes nothing, so a trial goes on where the same training was left.
    """
    own = settings.model_dump(mode="json", exclude={"checkpoints", "tracking", "gpus", "pruning"})
    identity = {"settings": own, "inputs": inputs}
    if settings.checkpoints.checkpoint_dir:
        root = Path(settings.checkpoints.checkpoint_dir.removeprefix("file://"))
    elif LOCAL_ROOT in os.environ:
        root = Path(os.environ[LOCAL_ROOT], "checkpoints")
    else:
        return CheckpointFolder(fallback, identity, fallback)
    folder = CheckpointFolder(root, identity, root / SHARED)
    return replace(folder, path=root / settings.pipeline / folder.key)


def refuse_unwritable(folder: CheckpointFolder) -> None:
    """Raise UserError, or OutOfResources for a full disk, if checkpoints cannot be written."""
    for place in (folder.path, folder.shared):
        if error := write_error("CHECKPOINT-E0103", "checkpoint_dir", place):
            raise error


def resume_point(folder: CheckpointFolder, wanted: str, tuned: Path | None = None) -> Path | None:
    """Return the checkpoint to resume, by resume_from_checkpoint: false, true, auto or a checkpoint folder.

    A task that is started again (`tuned` is the path of its result) resumes from its own newest checkpoint, whatever is
    wanted. Raises UserError if `true` finds only checkpoints of other settings or data (with the differences), if a
    named folder is not a valid checkpoint, or if all checkpoints are invalid.
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
        path = Path(wanted)
        verified(path, "checkpoint")
        refuse_unsafe_weights(path)
        return path
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


def seal(checkpoint: Path, tuned: Path | None = None, by_time: bool = False) -> None:
    """Write a checkpoint's manifest when all files are on disk; this completes its save.

    `tuned` is the path of the task's result, `by_time` whether the checkpoint was saved only because time had passed.
    """
    follow_umask(checkpoint)
    _flush(checkpoint)
    facts = {**({"task": str(tuned)} if tuned else {}), **({"by_time": True} if by_time else {})}
    manifest = Manifest("checkpoint", describe_files(checkpoint), facts=facts)
    text = json.dumps({**vars(manifest), "digest": manifest.digest}, indent=1)
    write_durably(checkpoint / MANIFEST, text)


def _flush(folder: Path) -> None:
    """Write a folder's files to the disk: a manifest must not outlive them when a node fails."""
    for path in (folder, *folder.rglob("*")):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def is_by_time(checkpoint: Path) -> bool:
    """Return whether a checkpoint was saved only because time had passed."""
    return bool(_facts(checkpoint).get("by_time"))


def drop_passing(folder: Path) -> None:
    """Delete the checkpoints by time that are older than the newest checkpoint, and those whose save did not end."""
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step)
    for checkpoint in checkpoints[:-1]:
        if is_by_time(checkpoint) or not (checkpoint / MANIFEST).is_file():
            _delete(checkpoint)


def prune(folder: Path, keep: int, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `keep`, but never the best or the newest; those by time do not count."""
    if keep < 1:
        return
    checkpoints = [one for one in sorted(folder.glob("checkpoint-*"), key=_step) if not is_by_time(one)]
    spared = {Path(best).name} if best else set()
    excess = [c for c in checkpoints[:-1] if c.name not in spared][: max(0, len(checkpoints) - keep)]
    for checkpoint in excess:
        _delete(checkpoint)


def remove_finished(folder: CheckpointFolder, wanted: CheckpointParams) -> None:
    """Delete the checkpoints of a training whose result is written, except those that its parameters keep."""
    if wanted.keep_checkpoints == "true" or (wanted.keep_checkpoints == "auto" and wanted.save_total_limit > 0):
        return
    checkpoints = sorted(folder.path.glob("checkpoint-*"), key=_step)
    if wanted.checkpoint_dir and LOCAL_ROOT not in os.environ and checkpoints:
        # A pod's result may still be lost on its way to the object store: the newest leads to it again, with the best.
        spared = {checkpoints[-1].name, best_of(checkpoints[-1])}
        checkpoints = [checkpoint for checkpoint in checkpoints if checkpoint.name not in spared]
    for checkpoint in checkpoints:
        _delete(checkpoint)


def _delete(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink(missing_ok=True)  # first, so that after a kill the folder is not valid
    shutil.rmtree(checkpoint)


def _other_trainings(folder: CheckpointFolder) -> list[str]:
    """Describe how other unfinished trainings differ from this one, the most similar first."""
    differences = []
    for file in folder.path.parent.glob(f"*/{SETTINGS_FILE}"):
        if file.parent != folder.path and any(file.parent.glob("checkpoint-*")) and not is_finished(file.parent):
            other = flat(json.loads(file.read_text()))
            mine = flat(folder.identity)
            changed = sorted(key for key in other.keys() | mine.keys() if other.get(key) != mine.get(key))
            text = ", ".join(
                f"{key.rsplit('.', 1)[-1]} was {other.get(key)}, is {mine.get(key)}" for key in changed[:3]
            )
            differences.append((len(changed), text))
    return [text for _, text in sorted(differences)]


def finish(folder: Path) -> None:
    """Mark a training as finished, so that its checkpoints do not prevent a new one."""
    write_durably(folder / "finished.json", "{}")


def unfinish(folder: Path) -> None:
    """Undo `finish`, because a training begins again in this folder."""
    (folder / "finished.json").unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Return whether `finish` was called for this folder."""
    return (folder / "finished.json").exists()


def best_of(checkpoint: Path) -> str:
    """Return the name of the best checkpoint until this one; empty without evaluations."""
    file = checkpoint / "trainer_state.json"
    state = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return Path(state.get("best_model_checkpoint") or "").name


def _error_in(checkpoint: Path) -> str:
    """Return what is wrong with a checkpoint, and log it; empty if it is valid."""
    try:
        verified(checkpoint, "checkpoint")
    except StepError as error:
        log.warning("WARNING skipping %s: %s", checkpoint.name, error.problems[0].found)
        return error.problems[0].found
    return ""


def _facts(checkpoint: Path) -> dict[str, Any]:
    """Return the facts in a checkpoint's manifest; none without a readable one."""
    try:
        return dict(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")).get("facts") or {})
    except (OSError, ValueError):
        return {}


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[-1])
