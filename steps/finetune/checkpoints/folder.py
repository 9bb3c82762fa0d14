"""The folder of the checkpoints of one training."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from steps.artifacts import read_manifest, write_durably
from steps.errors import Problem, UserError
from steps.finetune.checkpoints.sealing import (
    BEST,
    best_of,
    damage_of,
    delete,
    facts_of,
    is_described,
    is_sealed,
    linked,
    named_alike,
    names_in,
    state_of,
    step_of,
    tell_best,
)
from steps.params.text_file import any_json
from steps.params.training import SWITCHES
from steps.sources import storage
from steps.sources.locks import locked
from steps.sources.object_folder import ObjectFolder
from steps.writing import write_error

log = logging.getLogger("finetune")

SETTINGS_FILE = "training.json"
TASK_FILE = "task.json"
FINISHED_FILE = "finished.json"
SHARED = "shared"  # beside the pipelines' folders
RESUMING = ".resuming"  # holds the checkpoint that is resumed, if it could not stay as it was saved
BEST_BEFORE = "best-before"  # the best checkpoint until the one that was named by its URI: no checkpoint of this folder


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

    @property
    def place(self) -> str:
        """Where the checkpoints outlive this process: a path or a URI."""
        return str(self.path)

    def names(self) -> list[str]:
        """Return the names of all checkpoints, complete or not, by their steps."""
        return names_in(self.path)

    def facts_of(self, name: str) -> dict[str, Any]:
        """Return the facts in a checkpoint's manifest; none without a readable one."""
        return facts_of(self.path / name)

    def is_sealed(self, name: str) -> bool:
        """Return whether the save of a checkpoint was completed, so that only damage can have made it invalid."""
        return is_sealed(self.path / name)

    def has_damaged_manifest(self, name: str) -> bool:
        """Return whether a checkpoint was completed, and its manifest cannot be read any more."""
        return is_sealed(self.path / name) and not is_described(self.path / name)

    def damage_of(self, name: str) -> str:
        """Return what is wrong with a checkpoint; empty if it is whole and in `path`."""
        return damage_of(self.path / name)

    def best_of(self, name: str) -> str:
        """Return the name of the best checkpoint until this one; empty without evaluations."""
        return best_of(self.path / name)

    def newest(self, strict: bool = False) -> Path | None:
        """Return the newest valid checkpoint; invalid ones are logged and skipped.

        Raises UserError if none is valid and one is damaged or, with `strict`, was interrupted while it was saved: a
        start from step 0 would silently lose progress.
        """
        self._warn_of_other_names()
        broken = []
        for name in reversed(self.names()):
            if not (error := self._error_in(name)):
                return self._with_best(self.path / name)
            if strict or self.is_sealed(name):
                broken.append(f"{name} ({error})")
        if broken:
            raise UserError(
                Problem("CHECKPOINT-E0101", self.place, f"{'; '.join(broken)}", "at least one valid checkpoint",
                        "set resume_from_checkpoint=false to start again at step 0")
            )  # fmt: skip
        return None

    def newest_of(self, tuned: Path) -> Path | None:
        """Return the newest valid checkpoint that the task with the result `tuned` saved.

        Raises UserError if there are only damaged ones: the task would begin at step 0 again.
        """
        broken = []
        for name in reversed(self.names()):
            facts = self.facts_of(name)
            if facts.get("task") == str(tuned) or (not facts and self.has_damaged_manifest(name)):
                if not (error := self._error_in(name)):
                    return self._with_best(self.path / name)
                broken.append(f"{name} ({error})")
        if broken:
            raise UserError(
                Problem("CHECKPOINT-E0101", self.place, "; ".join(broken), "at least one valid checkpoint",
                        "restore one, or start a new run with resume_from_checkpoint=false, which begins at step 0")
            )  # fmt: skip
        return None

    def named(self, wanted: str) -> Path:
        """Return the checkpoint that is named by its path or URI. Raises Outage or UserError if it is not valid."""
        path = storage.local_path(wanted)
        if path is None:
            return self._fetched(wanted)
        read_manifest(path, "checkpoint")
        return self._with_best(path)

    def brought(self, wanted: str) -> str:
        """Have what resume_from_checkpoint asks for in `path`, for a trainer that looks for it there itself.

        Returns what that trainer is told: true, false, auto, or the path of a checkpoint.
        """
        if wanted in SWITCHES:
            return wanted
        return str(storage.local_path(wanted) or self.named(wanted))

    def forget_after(self, step: int) -> None:
        """Delete what outlives this process of checkpoints after a step from which the training goes on."""
        for name in self.names():
            if (step_of(name) or 0) > step:
                delete(self.path / name)

    def saved(self) -> str:
        """Return where the newest valid checkpoint outlives this process; empty without one."""
        return next((f"{self.place}/{name}" for name in reversed(self.names()) if not self.damage_of(name)), "")

    def holds(self, wanted: str) -> bool:
        """Return whether a checkpoint that is named by its path or URI is one of this training."""
        return wanted.rstrip("/").rpartition("/")[0] == self.place or Path(wanted).parent == self.path

    def begin(self, tuned: Path) -> None:
        """Remember the task that uses this folder by the path of its result."""
        write_durably(self.path / TASK_FILE, json.dumps({"tuned": str(tuned)}, indent=1))

    def was_begun_by(self, tuned: Path) -> bool:
        """Return whether the task with the result `tuned` used this folder last, and has not ended with it.

        KFP starts an evicted pod again with the same paths; another run has other paths.
        """
        if tuned.exists() and is_finished(self.path):
            return False
        try:
            told = any_json((self.path / TASK_FILE).read_bytes())
            return bool(told["tuned"] == str(tuned))
        except FileNotFoundError:
            return False
        except (ValueError, TypeError, KeyError, IsADirectoryError):  # damaged, but the checkpoints say so too
            return any(self.facts_of(name).get("task") == str(tuned) for name in self.names())

    def clear(self) -> None:
        """Delete all checkpoints, so that those of an older training are not resumed."""
        self.remove()

    def remove(self, spared: set[str] | None = None) -> None:
        """Delete all checkpoints but those with the names in `spared`."""
        for name in (*self.names(), BEST_BEFORE, RESUMING):
            if name not in (spared or ()) and (self.path / name).is_dir():
                delete(self.path / name)

    def others(self) -> Iterator[dict[str, Any]]:
        """Give the identities of other unfinished trainings that have checkpoints."""
        for file in self.path.parent.glob(f"*/{SETTINGS_FILE}"):
            if file.parent != self.path and file.is_file() and names_in(file.parent) and not is_finished(file.parent):
                yield from identity_in(file.read_bytes())

    def identity_beside(self, wanted: str) -> Iterator[dict[str, Any]]:
        """Give the identity of the training whose folder holds a named checkpoint; nothing for one that was copied."""
        if self.holds(wanted):
            return
        if path := storage.local_path(wanted):
            file = path.parent / SETTINGS_FILE
            text = file.read_bytes() if file.is_file() else None
        else:
            text = ObjectFolder("resume_from_checkpoint", wanted.rstrip("/").rpartition("/")[0]).read(SETTINGS_FILE)
        yield from identity_in(text or b"")

    def refuse_unwritable(self) -> None:
        """Raise UserError, or OutOfResources for a full disk, if checkpoints cannot be written."""
        for place in (self.path, self.shared):
            if error := write_error("CHECKPOINT-E0103", "checkpoint_dir", place):
                raise error

    def lock(self, tuned: Path | None = None) -> AbstractContextManager[object]:
        """Lock the folder against other processes until the block ends; `tuned` is the path of the task's result.

        The lock of a process that was killed is free: the system knows that. See `steps/sources/locks.py` for stores.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self._locked(".lock")
        write_durably(self.path / SETTINGS_FILE, self._settings_text())
        return file

    def lock_of_processes(self) -> IO[str]:
        """Lock the folder for the processes of a training, which may outlive the one that started them for a while."""
        return self._locked(".lock-of-processes")

    def _locked(self, name: str) -> IO[str]:
        return locked(self.path / name, "another process with the same training")

    def _settings_text(self) -> str:
        return json.dumps(self.identity, indent=1, sort_keys=True)

    def _warn_of_other_names(self) -> None:
        """Name what somebody copied or renamed: it is never resumed by itself."""
        for path in named_alike(self.path):
            if step_of(path.name) is None or not path.is_dir():
                log.warning("WARNING skipping %s: not the name or folder of a checkpoint", path.name)

    def _error_in(self, name: str) -> str:
        """Return what is wrong with a checkpoint or with the best one until then, and log it; empty if it is valid.

        The result is the best checkpoint: a training that went on without it would end with another one.
        """
        error = self.damage_of(name)
        recorded = Path("" if error else state_of(self.path / name).get(BEST) or "")
        if recorded.name not in ("", name):
            elsewhere = recorded.parent != self.path and recorded.is_dir()  # of a training that was named by its path
            damage = damage_of(recorded) if elsewhere else self.damage_of(recorded.name)
            error = f"the best checkpoint until then, {recorded.name}: {damage}" if damage else ""
        if error:
            log.warning("WARNING skipping %s: %s", name, error)
        return error

    def _with_best(self, checkpoint: Path) -> Path:
        """Return a checkpoint whose state has the path of the best one where it is now, if the folder was moved."""
        recorded = Path(state_of(checkpoint).get(BEST) or "")
        best = checkpoint.parent / recorded.name
        if not recorded.name or recorded.is_dir() or not best.is_dir():
            return checkpoint
        moved = linked(checkpoint, self.path / RESUMING / checkpoint.name)
        tell_best(moved, best)
        return moved

    def _fetched(self, uri: str) -> Path:
        """Download a checkpoint that is named by its URI, with the best one until then."""
        root, _, name = uri.rstrip("/").rpartition("/")
        target = self.path / RESUMING / name
        shutil.rmtree(target, ignore_errors=True)
        storage.fetch("resume_from_checkpoint", uri.rstrip("/"), target)
        read_manifest(target, "checkpoint")
        best = best_of(target)
        if best and best != name:
            # In this folder, because the checkpoints that follow refer to it, and outlive the download.
            place = self.path / BEST_BEFORE
            if place.is_dir():
                delete(place)
            storage.fetch("resume_from_checkpoint", storage.join(root, best), place)
            read_manifest(place, "checkpoint")
            tell_best(target, place)
        elif best:
            tell_best(target, target)
        return target


def identity_in(text: bytes) -> Iterator[dict[str, Any]]:
    """Give what a file of settings holds, if it is whole."""
    with suppress(ValueError):
        if isinstance(found := any_json(text), dict):
            yield found


def finish(folder: Path) -> None:
    """Mark a training as finished, so that its checkpoints do not prevent a new one."""
    write_durably(folder / FINISHED_FILE, "{}")
    shutil.rmtree(folder / RESUMING, ignore_errors=True)


def unfinish(folder: Path) -> None:
    """Undo `finish`, because a training begins again in this folder."""
    (folder / FINISHED_FILE).unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Return whether `finish` was called for this folder."""
    return (folder / FINISHED_FILE).exists()
