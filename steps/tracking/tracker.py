"""One tracked run. A separate thread sends; while the server is unavailable, records wait in order."""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from steps.errors import Preempted
from steps.exhausted import is_out_of_space
from steps.params.registration import TrackingParams
from steps.pruning import Pruned
from steps.redaction import masked
from steps.tracking.checkpoints import CheckpointCopies
from steps.tracking.continued import end_abandoned
from steps.tracking.loading import load_client
from steps.tracking.records import UNSENT, Record, TrackedRun, flat, now, write_unsent
from steps.tracking.store import Store, is_refusal
from steps.tracking.target import target_of

log = logging.getLogger("finetune")

FLUSH_SECONDS = 30.0  # longest wait for the tracking server at the end of a run
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between two attempts while the server is unavailable
AT_A_TIME = 200  # records
MOST_RECORDS = 50_000  # enough for an outage of days; later metrics are only in history.json
LONGEST_VALUE = 6000  # MLflow's limit for the text of a parameter


class Tracker:
    """One tracked run; all methods except `flush` return at once, and none raises."""

    def __init__(
        self,
        tracking: TrackingParams,
        name: str,
        tags: dict[str, str] | None = None,
        keep: Path | None = None,
        continues: bool = False,
    ):
        """`keep` is the folder of checkpoints: for unsent records if the run ends before `write_unsent` was called.

        With `continues`, the run that an earlier process of the same training began is continued.
        """
        self.target = target_of(tracking)
        run = TrackedRun(str(masked(name)), self.target.experiment, masked({**(tags or {}), **self.target.tags}))
        run.run_id, run.ours = self.target.run_id, not self.target.run_id
        self.store = Store(self.target.uri, run, keep if run.ours else None, continues)
        self.keep = keep
        self._steps: dict[str, int] = {}
        self.dropped = 0
        self._pending: deque[Record] = deque()
        self._refused: list[Record] = []
        self._change = threading.Condition()
        self._down = self._full = self._ending = self._stopped = self._told = self._swept = False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._copies = CheckpointCopies(self.store) if self.target.copies_checkpoints and self.target.uri else None

    def __enter__(self) -> Tracker:
        if self.target.uri:
            load_client(self.target.uri)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.target.uri:
            return
        self._put({"status": _status(kind), "time": now()})
        self.flush(2.0 if self._down else FLUSH_SECONDS)
        if self._copies:
            self._copies.close()
        with self._change:
            self._stopped = True
            self._change.notify_all()
        if self.keep and not self._told and (left := self.unsent()):
            try:
                self.keep.mkdir(parents=True, exist_ok=True)
                write_unsent(self.keep / UNSENT, self.store.run, left)
            except OSError as error:
                if kind is None:  # else the error of the training is the one to tell
                    raise
                log.warning("WARNING %d records of MLflow are lost: %s", len(left), _first_line(error))
            else:
                self.tell(self.keep / UNSENT, left)

    @property
    def run_id(self) -> str | None:
        """The run's id; None without a server, or before it has answered."""
        return self.store.run.run_id or None

    def parameters(self, values: dict[str, Any]) -> None:
        """Record settings, without the secrets in them; nested ones get dotted names."""
        given = flat(values) if self.target.flattens else {key: json.dumps(value) for key, value in values.items()}
        told = {str(masked(key)): str(masked(value))[:LONGEST_VALUE] for key, value in given.items()}
        self._put({"parameters": told})

    def tag(self, values: dict[str, str]) -> None:
        """Set tags of the run, without the secrets in them."""
        self._put({"tags": {key: str(masked(value))[:LONGEST_VALUE] for key, value in values.items()}})

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record metrics of one step, each once; values that are not finite are left out, because MLflow refuses them.

        A step that was recorded before is passed over: a training that tries again repeats it.
        """
        finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
        new = {key: value for key, value in finite.items() if step > self._steps.get(key, -1)}
        self._steps |= dict.fromkeys(new, step)
        if new:
            self._put({"metrics": new, "step": step, "time": now()})

    def checkpoint(self, folder: Path) -> None:
        """Copy a complete checkpoint to the run's artifacts, if enabled."""
        if self._copies:
            self._copies.offer(folder)

    def flush(self, seconds: float | None = None) -> None:
        """Wait until all records are sent, at most `seconds`; no longer after a try that met a full disk."""
        if not self.target.uri:
            return
        limit = time.monotonic() + (FLUSH_SECONDS if seconds is None else seconds)
        with self._change:
            self._ending, self._full = True, False
            self._change.notify_all()
            while self._pending and not self._full and (left := limit - time.monotonic()) > 0:
                self._change.wait(left)

    def unsent(self) -> list[Record]:
        """Return the records that the server has not accepted."""
        with self._change:
            return [*self._pending, *self._refused]

    def write_unsent(self, folder: Path) -> None:
        """Write the records that the server has not accepted, if any, into a folder that is kept."""
        if left := self.unsent():
            write_unsent(folder / UNSENT, self.store.run, [*left, {"status": "FINISHED", "time": now()}])
            self._told = True

    def tell(self, file: Path, left: list[Record]) -> None:
        """Log which records are missing on the server, and how to send them."""
        more = f"; {self.dropped} more were dropped" if self.dropped else ""
        log.warning(
            "WARNING MLflow at %s did not accept %d records%s. They are in %s; register_model sends them, or: python "
            "-m steps send-metrics --file %s", masked(self.target.uri), len(left), more, file, file,
        )  # fmt: skip

    def _put(self, record: Record) -> None:
        if not self.target.uri:
            return
        with self._change:
            if len(self._pending) >= MOST_RECORDS and "status" not in record:
                self.dropped += 1
                return
            self._pending.append(record)
            self._change.notify_all()

    def _work(self) -> None:
        wait = FIRST_WAIT
        while (batch := self._next()) is not None:
            try:
                self.store.send(batch)
            except Exception as error:  # an error of the server must not stop the training
                if is_refusal(error) and self.store.run.run_id:
                    self._sort_out(batch, error)
                    continue
                self._say_down(error)
                with self._change:
                    self._full = is_out_of_space(error)
                    self._change.notify_all()
                self._pause(wait)
                wait = min(wait * 2, LONGEST_WAIT)
            else:
                self._end_abandoned()
                if self._down:
                    log.info("MLflow at %s answers again; no records are lost", masked(self.target.uri))
                self._down, wait = False, FIRST_WAIT
                self._done(len(batch))

    def _end_abandoned(self) -> None:
        """Once, end the runs of trainings beside this one that were killed."""
        if self._swept or self.keep is None:
            return
        self._swept = True
        try:
            end_abandoned(self.store.client(), self.target.uri, self.keep.parent.parent)
        except Exception as error:  # the next training tries again
            log.info("runs of killed trainings were not closed: %s", _first_line(error))

    def _next(self) -> list[Record] | None:
        """Wait for records and return the oldest, which stay in the queue until they are sent; None at the end."""
        with self._change:
            while not self._pending and not self._stopped:
                self._change.wait()
            return None if self._stopped else [self._pending[n] for n in range(min(AT_A_TIME, len(self._pending)))]

    def _done(self, count: int) -> None:
        with self._change:
            for _ in range(count):
                self._pending.popleft()
            self._change.notify_all()

    def _sort_out(self, batch: list[Record], error: Exception) -> None:
        """Set aside the record that the server refuses; a batch is sent one by one to find it."""
        for record in batch:
            try:
                if len(batch) > 1:
                    self.store.send([record])
            except Exception as single:
                if not is_refusal(single):
                    return  # the server became unavailable
                error = single
            else:
                if len(batch) > 1:
                    self._done(1)
                    continue
            if not self._refused:
                log.warning("WARNING MLflow at %s refuses a record: %s", masked(self.target.uri), _first_line(error))
            with self._change:
                self._refused.append(record)
            self._done(1)

    def _say_down(self, error: Exception) -> None:
        if not self._down:
            log.warning(
                "WARNING MLflow at %s: %s; training continues, and metrics are sent later",
                masked(self.target.uri),
                _first_line(error),
            )
        self._down = True

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt; only briefly at the end of the run."""
        until = time.monotonic() + seconds
        with self._change:
            while not self._stopped and (left := until - time.monotonic()) > 0:
                if self._ending:
                    left = min(left, FIRST_WAIT)
                    self._change.wait(left)
                    return
                self._change.wait(left)


def _status(kind: type[BaseException] | None) -> str:
    """Return MLflow's status for the way in which a training ended."""
    if kind is None:
        return "FINISHED"
    return "KILLED" if issubclass(kind, Preempted | Pruned) or not issubclass(kind, Exception) else "FAILED"


def _first_line(error: Exception) -> str:
    return str(masked((str(error).splitlines() or [type(error).__name__])[0]))[:200]
