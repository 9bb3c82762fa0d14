"""A journal in an object store: parts are uploaded when they are closed, and downloaded when a run goes on."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steps.errors import StepError
from steps.generate.journal import CLOSED, SMALL_FILES
from steps.redaction import masked
from steps.sources.locks import Lease
from steps.sources.object_folder import ObjectFolder

log = logging.getLogger("finetune")

COMING = ".coming"
LOOK_SECONDS = 1.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # between two tries
LAST_SECONDS = 60.0  # for the last uploads of a run that is stopped


class StoredJournal:
    """The same parts in a local folder and below a URI. No error of the store ends a run: uploads are tried again."""

    def __init__(self, folder: Path, objects: ObjectFolder, owner: str):
        """`owner` is the path of the result, which a task that is started again has."""
        self.folder = folder
        self.objects = objects
        self._lease = Lease(objects, owner, "answers", "rows and settings")
        self._there: dict[str, int] = {}
        self._over = threading.Event()
        self._failing = ""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Lock the store, bring its parts here, and upload until the block ends.

        The parts in the store are deleted if the block ends without an error. Raises UserError without access, Outage
        if the store does not answer at the start, or another process uses it.
        """
        self._lease.take()
        uploading = threading.Thread(target=self._work, name="answers", daemon=True)
        try:
            self._bring()
            uploading.start()
            yield
        except BaseException:
            self._end(uploading)
            self._last()
            raise
        else:
            self._end(uploading)
            self._delete()
        finally:
            self._lease.release()

    def _bring(self) -> None:
        """Download the parts, unless they are here; those here that are not there were never uploaded."""
        sizes = {name: size for name, size in self.objects.sizes().items() if _is_ours(name)}
        here = {file.name: file.stat().st_size for file in self.folder.iterdir()}
        if any(here.get(name) != size for name, size in sizes.items()):
            coming = self.folder / COMING
            shutil.rmtree(coming, ignore_errors=True)
            self.objects.fetch("", coming)
            for name in sizes:
                (coming / name).replace(self.folder / name)
            shutil.rmtree(coming)
            log.info("read %d parts of answers from %s", len(sizes), masked(self.objects.uri))
        self._there = sizes

    def upload(self) -> None:
        """Upload what is closed here and not there."""
        for file in sorted(self.folder.iterdir()):
            if _is_ours(file.name):
                size = file.stat().st_size
                if self._there.get(file.name) != size:
                    self.objects.put(file, file.name)
                    self._there[file.name] = size

    def _work(self) -> None:
        wait = FIRST_WAIT
        while not self._over.wait(wait if self._failing else LOOK_SECONDS):
            if not self._lease.held:
                continue
            try:
                self.upload()
            except Exception as error:  # of the store or of the disk: the answers are here
                self._say(error)
                wait = min(wait * 2, LONGEST_WAIT)
            else:
                if self._failing:
                    log.info("answers are uploaded to %s again", masked(self.objects.uri))
                self._failing, wait = "", FIRST_WAIT

    def _end(self, uploading: threading.Thread) -> None:
        self._over.set()
        if uploading.is_alive():
            uploading.join(LAST_SECONDS)

    def _last(self) -> None:
        """Upload the parts that were closed last, as long as the store takes them."""
        began = time.monotonic()
        while self._lease.held and time.monotonic() - began < LAST_SECONDS:
            try:
                self.upload()
            except Exception as error:
                self._say(error)
                time.sleep(FIRST_WAIT)
            else:
                return
        log.warning("WARNING the last answers are not at %s. They are in %s", masked(self.objects.uri), self.folder)

    def _delete(self) -> None:
        if not self._lease.held:  # another process goes on there
            return
        with suppress(StepError):  # the result is whole, and the next run of it is another one
            self.objects.delete([*self._there])
            return
        log.warning("WARNING answers stay at %s", masked(self.objects.uri))

    def _say(self, error: Exception) -> None:
        found = error.problems[0].found if isinstance(error, StepError) else f"{type(error).__name__}: {error}"
        said = str(masked(" ".join(found.split())))[:200]
        if said != self._failing:
            place = masked(self.objects.uri)
            log.warning("WARNING answers cannot be uploaded to %s: %s; trying again", place, said)
        self._failing = said or "failing"


def _is_ours(name: str) -> bool:
    """Return whether an object is one that was uploaded here: a closed part, or a small file beside them."""
    return "/" not in name and (name.endswith(CLOSED) or name in SMALL_FILES)
