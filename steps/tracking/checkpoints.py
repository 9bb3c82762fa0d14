"""Copy checkpoints to the run's artifact store, in the background, one at a time; older waiting ones are skipped."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path

from steps.redaction import masked
from steps.tracking.store import Store

log = logging.getLogger("finetune")

LAST_SECONDS = 120.0  # training is over then, and the GPU is idle
TRIES = 3
WAIT = 5.0  # seconds between two tries


class CheckpointCopies:
    """Sends checkpoints; a newer checkpoint replaces one that is still waiting."""

    def __init__(self, store: Store):
        self.store = store
        self._waiting: Path | None = None
        self._sending: Path | None = None
        self._closed = False
        self._change = threading.Condition()
        self._missing: list[str] = []
        self._thread = threading.Thread(target=self._work, name="checkpoint copies", daemon=True)
        self._thread.start()

    def offer(self, checkpoint: Path) -> None:
        """Queue a checkpoint; hard links keep its files until it is sent."""
        place = checkpoint.parent / ".sending" / checkpoint.name
        try:
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(checkpoint, place, copy_function=os.link)
        except OSError:  # a volume without hard links
            place = checkpoint
        with self._change:
            if self._waiting is not None:
                self._give_up(self._waiting, "replaced by a newer one before it was sent")
            self._waiting = place
            self._change.notify_all()

    def close(self, seconds: float | None = None) -> None:
        """Wait a limited time for pending copies, and log those that were not sent."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._thread.join(LAST_SECONDS if seconds is None else seconds)
        with self._change:
            for left in (self._sending, self._waiting):
                if left is not None:
                    self._give_up(left, "time limit reached")
            if self._missing:
                log.warning("WARNING not copied to MLflow: %s", ", ".join(self._missing))

    def _work(self) -> None:
        while True:
            with self._change:
                while self._waiting is None and not self._closed:
                    self._change.wait()
                if self._waiting is None:
                    return
                self._sending, self._waiting = self._waiting, None
                place = self._sending
            said = self._send(place)
            with self._change:
                if self._sending is not None:
                    self._sending = None
                    if said:
                        self._give_up(place, said)
                    else:
                        _forget(place)

    def _send(self, place: Path) -> str:
        """Send one checkpoint; return the error message, or an empty text."""
        said = ""
        for attempt in range(TRIES):
            with self._change:
                if attempt and (self._waiting is not None or self._closed):
                    break  # send the newer one instead of retrying
            try:
                self.store.client().log_artifacts(self.store.run.run_id, str(place), place.name)
                log.info("copied %s to MLflow", place.name)
                return ""
            except Exception as error:  # an error of the store must not stop the training
                said = str(masked(str(error).splitlines()[0] if str(error) else type(error).__name__))[:200]
            with self._change:
                if not self._closed:
                    self._change.wait(WAIT)
        return said

    def _give_up(self, place: Path, why: str) -> None:
        self._missing.append(f"{place.name} ({why})")
        _forget(place)


def _forget(place: Path) -> None:
    if place.parent.name == ".sending":
        shutil.rmtree(place, ignore_errors=True)
