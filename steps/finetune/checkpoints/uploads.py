"""Upload the checkpoints of a local folder in the background, and delete those that are not kept any more."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from steps.artifacts import MANIFEST
from steps.errors import StepError
from steps.finetune.checkpoints.folder import BEST_BEFORE, FINISHED_FILE, SETTINGS_FILE, TASK_FILE
from steps.finetune.checkpoints.removing import excess
from steps.finetune.checkpoints.sealing import best_of, by_step, delete, is_sealed, linked, names_in, step_of
from steps.finetune.checkpoints.stored import StoredCheckpoints
from steps.redaction import masked
from steps.tracking.continued import FILE as RUN_FILE
from steps.tracking.records import UNSENT
from steps.verl.metrics import FOLDER as METRICS

log = logging.getLogger("finetune")

SMALL_FILES = (SETTINGS_FILE, TASK_FILE, FINISHED_FILE, RUN_FILE, UNSENT)
SENDING = ".uploading"  # beside the copies for MLflow
LOOK_SECONDS = 0.5
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between two tries
LAST_SECONDS = 900.0  # the training is over then, and the GPU idle
FAILING_SECONDS = 60.0  # of them, if the store fails


class Uploads:
    """Makes the checkpoints of a store those of a local folder, which it looks through again and again.

    So nobody has to tell it: a checkpoint is uploaded when it is sealed, whichever process did that, and one that was
    deleted before its turn is not. One is uploaded at a time, the oldest first. A checkpoint that is deleted here goes
    there when a newer one is complete. What is complete there is deleted here, except the newest and the best.

    No error ends the training: an upload is tried again until `finish` has waited long enough.
    """

    def __init__(self, folder: Path, stored: StoredCheckpoints, keep: int):
        """`keep` is save_total_limit."""
        self.folder = folder
        self.stored = stored
        self.keep = keep
        self.allowed: Callable[[], bool] = lambda: False
        """Whether this process may write there."""
        self._there: dict[str, str] = {}  # name → digest of the manifest of a checkpoint that is complete there
        self._by_time: dict[str, bool] = {}
        self._begun: tuple[str, set[str]] = ("", set())  # digest of the manifest, and files that are there already
        self._small: dict[str, bytes | None] = {}
        self._change = threading.Condition()
        self._asked = self._answered = 0
        self._failing = self._closed = False
        self._said = self._tried = ""
        self._thread = threading.Thread(target=self._work, name="checkpoint uploads", daemon=True)

    def start(self, allowed: Callable[[], bool]) -> None:
        """Begin to look, and upload as long as that is `allowed`."""
        self.allowed = allowed
        self._thread.start()

    def finish(self, seconds: float = LAST_SECONDS, failing: float = FAILING_SECONDS) -> list[str]:
        """Wait until all is uploaded, at most `seconds`, or `failing` while the store fails; return what is not."""
        began = time.monotonic()
        with self._change:
            self._asked += 1
            mine = self._asked
            if (left := self.waiting()) and self._thread.is_alive():
                log.info("waiting until %s is uploaded to %s", left[-1], masked(self.stored.objects.uri))
            self._change.notify_all()
            while self._answered < mine and self._thread.is_alive() and self.allowed():
                passed = time.monotonic() - began
                if passed > (failing if self._failing else seconds):
                    break
                self._change.wait(0.2)
        return self.waiting()

    def close(self) -> None:
        """Stop looking; an upload that is going on is abandoned with the process."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join(5)

    def waiting(self) -> list[str]:
        """Return the checkpoints that are complete here and not there, by their steps."""
        names = [BEST_BEFORE, *names_in(self.folder)]
        return [name for name in names if (digest := self._digest(name)) and self._there.get(name) != digest]

    def fetched(self, name: str) -> None:
        """Note that a checkpoint was downloaded: it is the same here and there."""
        self._there[name] = self._digest(name)

    def deleted(self, name: str) -> None:
        """Note that a checkpoint was deleted there: one that is saved again under its name is another one."""
        self._there.pop(name, None)

    def sent(self, name: str, content: bytes) -> None:
        """Note what a small file has there."""
        self._small[name] = content

    def _digest(self, name: str) -> str:
        return _digest_in(self.folder / name)

    def _work(self) -> None:
        wait = FIRST_WAIT
        while not self._closed:
            asked = self._asked
            try:
                busy = self.allowed() and self.step()
            except Exception as error:  # of the store or of the disk; also our own must not end in silence
                self._say(error)
                self._failing = True
                self._pause(wait)
                wait = min(wait * 2, LONGEST_WAIT)
                continue
            if self._failing:
                log.info("checkpoints are uploaded to %s again", masked(self.stored.objects.uri))
            self._failing, self._said, wait = False, "", FIRST_WAIT
            if not busy:
                with self._change:
                    self._answered = asked
                    self._change.notify_all()
                self._pause(LOOK_SECONDS)

    def step(self) -> bool:
        """Bring what is small up to date, and upload one checkpoint; return whether there was one."""
        self._send_small()
        waiting = self.waiting()
        if not waiting:
            return False
        name = self._first(waiting)
        self._tried = name
        digest = self._digest(name)
        text = self.stored.manifest(name)
        if not digest or (text is not None and sha256(text).hexdigest() == digest):  # deleted by now, or there before
            self._there |= {name: digest} if digest else {}
            return True
        self._upload(name, digest)
        self._remove_here()
        self._remove_there()
        return True

    def _first(self, waiting: list[str]) -> str:
        """Return the oldest; at the end, when the time is limited, what the newest checkpoint needs to be resumed."""
        if self._failing:  # what cannot be uploaded does not hold up another one
            waiting = [name for name in waiting if name != self._tried] or waiting
        if self._asked > self._answered:
            newest = waiting[-1]
            return next((name for name in waiting if name == best_of(self.folder / newest)), newest)
        return waiting[0]

    def _upload(self, name: str, digest: str) -> None:
        try:
            copy = linked(self.folder / name, self.folder / SENDING / name)  # it may be deleted during the upload
        except OSError:
            if self._digest(name):
                raise
            return
        began = time.monotonic()
        try:
            if _digest_in(copy) != digest:
                return
            if self._begun[0] != digest:
                self._begun = (digest, set())
            self._send_metrics()  # a training that goes on from this checkpoint has them
            size = self.stored.upload(copy, name, self._begun[1])
        finally:
            delete(copy)
        self._there[name] = digest
        self._send_metrics()  # verl logs a step after it has saved it
        self._by_time.pop(name, None)
        seconds = time.monotonic() - began
        log.info("uploaded %s (%.1f MB in %.1f s) to %s", name, size / 1e6, seconds, masked(self.stored.objects.uri))

    def _send_small(self) -> None:
        for name in SMALL_FILES:
            self._send(name)

    def _send_metrics(self) -> None:
        """Send verl's metrics, of which each of its starts has a file; they grow with every step."""
        here = {f"{METRICS}/{file.name}" for file in (self.folder / METRICS).glob("*.jsonl")}
        for name in sorted(here | {name for name in self._small if name.startswith(f"{METRICS}/")}):
            self._send(name)

    def _send(self, name: str) -> None:
        file = self.folder / name
        content = file.read_bytes() if file.is_file() else None
        if name not in self._small or content != self._small[name]:
            if content is not None:
                self.stored.objects.write(name, content)
            else:
                self.stored.objects.delete([name])
            self._small[name] = content

    def _remove_there(self) -> None:
        """Delete what is outdated there, by the rules for folders; what is only there counts too."""
        here, objects = set(names_in(self.folder)), self.stored.objects.sizes()
        there = by_step(list({name.partition("/")[0] for name in objects if "/" in name}))
        whole = [name for name in there if f"{name}/{MANIFEST}" in objects]
        newest = max((step_of(name) or 0 for name in whole), default=0)
        old = [name for name in there if (step_of(name) or 0) < newest]
        outdated = {name for name in old if name not in here and (name not in whole or self._was_by_time(name))}
        counted = [name for name in whole if not self._was_by_time(name)]
        best = next((best_of(self.folder / name) for name in reversed(names_in(self.folder)) if self._digest(name)), "")
        outdated |= {name for name in excess(counted, self.keep, best) if name not in here}
        for name in sorted(outdated):
            self.stored.delete(name)
            self._there.pop(name, None)

    def _was_by_time(self, name: str) -> bool:
        if name not in self._by_time:
            described = self.stored.described(name)
            self._by_time[name] = bool(described and described.facts.get("by_time"))
        return self._by_time[name]

    def _remove_here(self) -> None:
        """Delete what is complete there, so that a small disk is enough; not the newest, and not what may be the best.

        A checkpoint that is not the best when a newer one was sealed will never be.
        """
        sealed = [name for name in names_in(self.folder) if is_sealed(self.folder / name)]
        for name in sealed[:-1]:
            if name != best_of(self.folder / sealed[-1]) and self._there.get(name) == self._digest(name):
                delete(self.folder / name)

    def _say(self, error: Exception) -> None:
        found = error.problems[0].found if isinstance(error, StepError) else f"{type(error).__name__}: {error}"
        said = str(masked(" ".join(found.split())))[:200]
        if said != self._said:
            place = masked(self.stored.objects.uri)
            log.warning("WARNING checkpoints cannot be uploaded to %s: %s; trying again", place, said)
        self._said = said

    def _pause(self, seconds: float) -> None:
        with self._change:
            if not self._closed:
                self._change.wait(min(seconds, 5.0) if self._asked > self._answered else seconds)


def _digest_in(checkpoint: Path) -> str:
    """Return the digest of a checkpoint's manifest; empty if it is not complete, or was deleted."""
    file = checkpoint / MANIFEST
    try:
        return sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
    except OSError:
        return ""
