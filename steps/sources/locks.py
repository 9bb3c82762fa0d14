"""Locks of folders that outlive a process: of a folder on a disk, and of one in an object store.

On a disk, the system knows when the owner of a lock has gone. In an object store, the lock is an object that its owner
renews.

What an object store cannot guarantee: a lock is only renewed, not enforced. A process that was suspended for minutes
may write after another one took the lock over, until it sees that at its next renewal. Where a store does not know
a condition for a write (S3 does: If-None-Match), two processes that begin in the same moment may both write the lock;
each reads it again after a pause, and the last writer has it. In the worst case, both upload checkpoints of the same
training: settings and data are the same, a checkpoint's manifest names the digests of its files, and a mixture is found
out when it is resumed. The result of a training does not depend on it. Nor do answers: each has a place of its own.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from steps.errors import Outage, Problem, StepError
from steps.sources.object_folder import ObjectFolder

log = logging.getLogger("finetune")

LOCK_SECONDS = 60  # a killed run needs some time to exit
LOCK_OBJECT = "lock.json"
RENEW_SECONDS = 30.0
STALE_SECONDS = 300.0  # ten renewals: the owner is gone
SETTLE_SECONDS = 1.0  # after a lock was written, until the one who wrote last is known
LOOK_SECONDS = 2.0


def locked(file: Path, who: str) -> IO[str]:
    """Open and lock a file against other processes until it is closed; `who` would have it, for the message.

    The lock of a process that was killed is free. Raises Outage if another process still has it after LOCK_SECONDS.
    """
    opened = open(file, "w")  # noqa: SIM115  (held open on purpose)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return opened
        except OSError:
            if time.monotonic() >= deadline:
                opened.close()
                raise in_use(str(file.parent), who) from None
            time.sleep(min(1.0, LOCK_SECONDS))


def in_use(place: str, found: str, fix: str = "wait for it, or stop it") -> Outage:
    """Return the error for a folder of checkpoints that another process uses."""
    problem = Problem("CHECKPOINT-E0401", place, found, "one process", fix)
    return Outage(problem, transient=False)  # it was waited for


class Lease:
    """The lock object below a URI; `owner` is the path of the task's result, which a task that is started again has.

    `what` is stored there and `work` is what the owner does, for messages.
    """

    def __init__(self, objects: ObjectFolder, owner: str, what: str = "checkpoints", work: str = "training"):
        self.objects = objects
        self.owner = owner
        self.what = what
        self.work = work
        self.token = secrets.token_hex(8)
        self.held = False
        self._renewals = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)

    def take(self) -> None:
        """Wait for the lock and renew it from then on.

        A lock that nobody renews is waited for until it is STALE_SECONDS old. Raises Outage for one that is renewed.
        """
        began, seen = time.monotonic(), None
        while not self._try(seen):
            told = self._read() or {}
            seen = seen or told
            alive = told.get("token") != seen.get("token") or told.get("renewed") != seen.get("renewed")
            if alive and time.monotonic() - began > LOCK_SECONDS:
                who = f"a process on {told.get('host')} with the same {self.work}, which is active"
                raise in_use(self.objects.uri, who)
            time.sleep(LOOK_SECONDS)
        self.held = True
        self._thread.start()

    def release(self) -> None:
        """Give the lock back, if it is still held."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(RENEW_SECONDS)
        try:
            if self.held and (self._read() or {}).get("token") == self.token:
                self.objects.delete([LOCK_OBJECT])
        except StepError as error:
            log.info("the lock of the %s could not be given back: %s", self.what, error.problems[0].found)
        self.held = False

    def _try(self, seen: dict[str, Any] | None) -> bool:
        """Take the lock if it is free, this task's own, or old."""
        told = self._read()
        if told is None:
            return self.objects.write_new(LOCK_OBJECT, self._text()) and self._is_mine()
        own = told.get("owner") == self.owner
        if not own and (age := self._age()) is not None and age < STALE_SECONDS:
            if seen is None:
                log.info(
                    "the %s at %s are locked by a process on %s: waiting until it ends, or has not renewed "
                    "its lock for %d s", self.what, self.objects.uri, told.get("host"), STALE_SECONDS,
                )  # fmt: skip
            return False
        log.info("taking over the lock of %s", "this task's earlier process" if own else "a process that is gone")
        self.objects.write(LOCK_OBJECT, self._text())
        return self._is_mine()

    def _is_mine(self) -> bool:
        time.sleep(SETTLE_SECONDS)
        return (self._read() or {}).get("token") == self.token

    def _read(self) -> dict[str, Any] | None:
        """Return what the lock says; empty if that is damaged, None without a lock."""
        text = self.objects.read(LOCK_OBJECT)
        if text is None:
            return None
        try:
            told = json.loads(text)
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}

    def _age(self) -> float | None:
        """Return for how many seconds the lock was not renewed, by the clock of the store; None if it is gone.

        Clocks of two machines may differ by more than the lock lasts, so that a second object is written to compare.
        """
        now = f".{LOCK_OBJECT}.{self.token}"
        self.objects.write(now, b"")
        try:
            written, asked = self.objects.modified(LOCK_OBJECT), self.objects.modified(now)
        finally:
            self.objects.delete([now])
        return (asked - written).total_seconds() if written and asked else None

    def _text(self) -> bytes:
        told = {
            "owner": self.owner,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": self.token,
            "renewed": self._renewals,
        }
        return json.dumps(told, indent=1).encode()

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                told = self._read()
                if told is not None and told.get("token") != self.token:
                    self.held = False
                    log.warning(
                        "WARNING a process on %s took over the %s at %s: this one uploads no more; its %s goes on",
                        told.get("host"), self.what, self.objects.uri, self.work,
                    )  # fmt: skip
                    return
                self._renewals += 1
                self.objects.write(LOCK_OBJECT, self._text())
            except Exception as error:  # the next renewal may succeed, and the training goes on anyway
                log.info("the lock of the %s could not be renewed: %s", self.what, " ".join(str(error).split())[:200])
