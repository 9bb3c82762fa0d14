"""The checkpoints of one training in an object store, with a local folder in which they are written and resumed."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from steps.artifacts import write_durably
from steps.errors import StepError
from steps.finetune.checkpoints.folder import (
    BEST_BEFORE,
    FINISHED_FILE,
    SETTINGS_FILE,
    TASK_FILE,
    CheckpointFolder,
    identity_in,
)
from steps.finetune.checkpoints.sealing import (
    STATE,
    best_in,
    best_of,
    by_step,
    damage_of,
    facts_of,
    is_sealed,
    names_in,
    state_in,
    step_of,
)
from steps.finetune.checkpoints.stored import StoredCheckpoints
from steps.finetune.checkpoints.uploads import SENDING, SMALL_FILES, Uploads
from steps.params.training import SAVED_AS, SWITCHES
from steps.redaction import masked
from steps.sources.locks import Lease
from steps.sources.object_folder import ObjectFolder
from steps.verl.metrics import FOLDER as METRICS

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class RemoteFolder(CheckpointFolder):
    """The checkpoints of one training below a URI; `path` is a local folder, which may begin empty.

    The Trainer writes to `path` and reads from it. What is sealed there is uploaded in the background while the folder
    is locked, and what is needed for resuming is downloaded. The small files beside the checkpoints are copied from the
    store when the folder is locked, and to the store when they change; verl's metrics, with the next checkpoint.
    """

    uri: str
    work: Path
    """Local folder of all of this task's temporary files, which is deleted after a success."""
    keep: int
    """Checkpoints to keep (save_total_limit)."""

    @property
    def place(self) -> str:
        """The URI."""
        return self.uri

    @cached_property
    def objects(self) -> ObjectFolder:
        """What is below the URI."""
        return ObjectFolder("checkpoint_dir", self.uri)

    @cached_property
    def stored(self) -> StoredCheckpoints:
        """The checkpoints below the URI."""
        return StoredCheckpoints(self.objects)

    @cached_property
    def uploads(self) -> Uploads:
        """What uploads in the background, while the folder is locked."""
        return Uploads(self.path, self.stored, self.keep)

    def names(self) -> list[str]:
        """Return the names of all checkpoints here and in the store, by their steps."""
        return by_step(list({*names_in(self.path), *self.stored.names()}))

    def facts_of(self, name: str) -> dict[str, Any]:
        """Return the facts in a checkpoint's manifest, here or there; none without a readable one."""
        if facts := facts_of(self.path / name):
            return facts
        described = self.stored.described(name)
        return described.facts if described else {}

    def is_sealed(self, name: str) -> bool:
        """Return whether a checkpoint was completed, here or there."""
        return is_sealed(self.path / name) or self.stored.manifest(name) is not None

    def has_damaged_manifest(self, name: str) -> bool:
        """Return whether a checkpoint was completed, and its manifest cannot be read any more, here or there."""
        text = self.stored.manifest(name)
        return super().has_damaged_manifest(name) or (text is not None and self.stored.described(name) is None)

    def damage_of(self, name: str) -> str:
        """Download a checkpoint, unless it is here; return what is wrong with it, empty if nothing is."""
        here = damage_of(self.path / name)
        if not here:
            return ""
        there = self.stored.fetch(name, self.path / name)
        if there:
            return here if is_sealed(self.path / name) else there
        self.uploads.fetched(name)
        log.info("downloaded %s from %s", name, masked(self.uri))
        return ""

    def best_of(self, name: str) -> str:
        """Return the name of the best checkpoint until this one; empty without evaluations."""
        if is_sealed(self.path / name):
            return best_of(self.path / name)
        return best_in(state_in(self.objects.read(f"{name}/{STATE}")))

    def brought(self, wanted: str) -> str:
        """Do the same; the newest checkpoint is downloaded."""
        if wanted == "false":
            self.clear()
        elif wanted in SWITCHES:
            self.newest()
        return super().brought(wanted)

    def forget_after(self, step: int) -> None:
        """Do the same in the store: a later training would go on from there."""
        super().forget_after(step)
        for name in self.stored.names():
            if (step_of(name) or 0) > step:
                self.stored.delete(name)
                self.uploads.deleted(name)

    def saved(self) -> str:
        """Wait for the uploads; return the URI of the newest complete checkpoint, empty without one in the store."""
        self.uploads.finish()
        try:
            names = reversed(self.stored.names())
            return next((f"{self.uri}/{name}" for name in names if not self.stored.damage_of(name)), "")
        except StepError as error:
            log.warning("WARNING %s", error.problems[0].found)
            return ""

    def begin(self, tuned: Path) -> None:
        """Remember the task that uses this folder, also in the store: a new pod finds it only there."""
        super().begin(tuned)
        self.objects.write(TASK_FILE, (self.path / TASK_FILE).read_bytes())

    def clear(self) -> None:
        """Delete all checkpoints here and in the store."""
        super().remove()
        for name in (*self.stored.names(), BEST_BEFORE):
            self.stored.delete(name)

    def remove(self, spared: set[str] | None = None) -> None:
        """Delete all checkpoints but those in `spared`, and in the store only when these are there."""
        super().remove(spared)
        if self.uploads.finish() or not self.uploads.allowed():
            return  # an older one leads to the result too
        try:
            for name in (*self.stored.names(), BEST_BEFORE):
                if name not in (spared or ()):
                    self.stored.delete(name)
        except StepError as error:  # the result is written
            log.warning("WARNING old checkpoints stay at %s: %s", masked(self.uri), error.problems[0].found)

    def others(self) -> Iterator[dict[str, Any]]:
        """Give the identities of other unfinished trainings that have checkpoints in the store."""
        parent, _, own = self.uri.rpartition("/")
        beside = ObjectFolder("checkpoint_dir", parent)
        names = beside.sizes()
        saved = {
            key
            for key, _, rest in (name.partition("/") for name in names)
            if step_of(rest.partition("/")[0]) is not None and key != own
        }
        for key in sorted(saved):
            if f"{key}/{FINISHED_FILE}" not in names and (text := beside.read(f"{key}/{SETTINGS_FILE}")):
                yield from identity_in(text)

    def refuse_unwritable(self) -> None:
        """Raise UserError or Outage if nothing can be written below the URI, or OutOfResources for a full disk here."""
        super().refuse_unwritable()
        self.objects.try_writing()

    def lock(self, tuned: Path | None = None) -> AbstractContextManager[object]:
        """Lock the folder here and in the store, and upload until the block ends."""
        return self._used(Lease(self.objects, str(tuned or self.path.absolute())))

    @contextmanager
    def _used(self, lease: Lease) -> Iterator[None]:
        with CheckpointFolder.lock(self):
            lease.take()
            try:
                self._pull()
                self.uploads.start(lambda: lease.held)
                try:
                    yield
                finally:
                    left = self._end_uploads()
            finally:
                lease.release()
                self.__dict__.pop("uploads")  # its thread has ended
        if not left:
            shutil.rmtree(self.work, ignore_errors=True)

    def _pull(self) -> None:
        """Make the small files here those of the store; the settings are the same by the folder's name."""
        for name in SMALL_FILES:
            if name == SETTINGS_FILE:
                self.objects.write(name, self._settings_text().encode())
            elif (content := self.objects.read(name)) is not None:
                write_durably(self.path / name, content)
            else:
                (self.path / name).unlink(missing_ok=True)
        for name in self.objects.sizes(METRICS):
            there = self.objects.read(name) or b""
            self.uploads.sent(name, there)
            file = self.path / name
            if not file.is_file() or file.stat().st_size < len(there):  # each start adds lines to a file of its own
                file.parent.mkdir(exist_ok=True)
                write_durably(file, there)

    def _end_uploads(self) -> list[str]:
        """Wait for the uploads, and tell which checkpoints are only here."""
        left = self.uploads.finish()
        self.uploads.close()
        shutil.rmtree(self.path / SENDING, ignore_errors=True)
        if left:
            log.warning("WARNING not uploaded to %s: %s. They are in %s", masked(self.uri), ", ".join(left), self.path)
        return left

    def _warn_of_other_names(self) -> None:
        super()._warn_of_other_names()
        for name in sorted({one.partition("/")[0] for one in self.objects.sizes()}):
            if name.startswith(SAVED_AS) and step_of(name) is None:
                log.warning("WARNING skipping %s/%s: not the name of a checkpoint", masked(self.uri), name)
