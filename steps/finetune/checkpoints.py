"""Folders of checkpoints, and the checkpoint from which a training is resumed.

Every training has a folder named by the digest of everything that affects its result. A checkpoint is valid only if it
has a manifest and all files match it, so a kill during a save loses only the steps since the previous checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
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

log = logging.getLogger("finetune")

SETTINGS_FILE = "training.json"
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

    def newest(self) -> Path | None:
        """Return the newest valid checkpoint; invalid ones are logged and skipped.

        Raises UserError if there are checkpoints but none is valid: a start from step 0 would silently lose progress.
        """
        candidates = sorted(self.path.glob("checkpoint-*"), key=_step, reverse=True)
        broken = []
        for candidate in candidates:
            try:
                verified(candidate, "checkpoint")
            except StepError as error:
                log.warning("WARNING skipping %s: %s", candidate.name, error.problems[0].found)
                broken.append(f"{candidate.name} ({error.problems[0].found})")
            else:
                return candidate
        if broken:
            raise UserError(
                Problem("CHECKPOINT-E0101", str(self.path), f"{'; '.join(broken)}", "at least one valid checkpoint",
                        "set resume_from_checkpoint=false to start again at step 0")
            )  # fmt: skip
        return None

    def clear(self) -> None:
        """Delete all checkpoints, so that those of an older training are not resumed."""
        for checkpoint in self.path.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)

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
    """Return the folder of a training: below checkpoint_dir, else below the local root, else `fallback`."""
    own = settings.model_dump(mode="json", exclude={"checkpoints", "tracking", "gpus"})
    identity = {"settings": own, "inputs": inputs}
    key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    if settings.checkpoints.checkpoint_dir:
        root = Path(settings.checkpoints.checkpoint_dir.removeprefix("file://"))
    elif LOCAL_ROOT in os.environ:
        root = Path(os.environ[LOCAL_ROOT], "checkpoints")
    else:
        return CheckpointFolder(fallback, identity, fallback)
    return CheckpointFolder(root / settings.pipeline / key, identity, root / SHARED)


def resume_point(folder: CheckpointFolder, wanted: str) -> Path | None:
    """Return the checkpoint to resume, by resume_from_checkpoint: false, true, auto or a checkpoint folder.

    Raises UserError if `true` finds only checkpoints of other settings or data (with the differences), if a named
    folder is not a valid checkpoint, or if all checkpoints are invalid.
    """
    if wanted == "false":
        folder.clear()
        return None
    if wanted not in ("true", "auto"):
        path = Path(wanted)
        verified(path, "checkpoint")
        refuse_unsafe_weights(path)
        return path
    found = folder.newest()
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


def seal(checkpoint: Path) -> None:
    """Write a checkpoint's manifest; this completes its save."""
    follow_umask(checkpoint)
    manifest = Manifest("checkpoint", describe_files(checkpoint))
    text = json.dumps({**vars(manifest), "digest": manifest.digest}, indent=1)
    write_durably(checkpoint / MANIFEST, text)


def prune(folder: Path, keep: int, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `keep`, but never the best or the newest."""
    if keep < 1:
        return
    checkpoints = sorted(folder.glob("checkpoint-*"), key=_step)
    spared = {Path(best).name} if best else set()
    excess = [c for c in checkpoints[:-1] if c.name not in spared][: max(0, len(checkpoints) - keep)]
    for checkpoint in excess:
        (checkpoint / MANIFEST).unlink(missing_ok=True)  # first, so that after a kill the folder is not valid
        shutil.rmtree(checkpoint)


def remove_finished(folder: CheckpointFolder, wanted: CheckpointParams) -> None:
    """Delete the checkpoints of a training whose result is written, except those that its parameters keep."""
    if wanted.keep_checkpoints == "true" or (wanted.keep_checkpoints == "auto" and wanted.save_total_limit > 0):
        return
    checkpoints = sorted(folder.path.glob("checkpoint-*"), key=_step)
    if wanted.checkpoint_dir and LOCAL_ROOT not in os.environ:
        checkpoints = checkpoints[:-1]  # a pod's result may still be lost on its way to the object store
    for checkpoint in checkpoints:
        (checkpoint / MANIFEST).unlink(missing_ok=True)
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


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[-1])
