"""The log of the first node, followed line by line, and the last lines of pods that failed.

What is shown says nothing about how the training ended. A log that cannot be read is a loss and no failure.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from steps.launch.trainjob.api import Api, rank_of

log = logging.getLogger("finetune")

LINES = 20  # of a pod that failed
OVER = ("Succeeded", "Failed")


class FirstLog:
    """Follows the log of node 0 in a thread; a pod that is started again is followed again."""

    def __init__(self, api: Api, reconnect_after: float):
        self._api, self._pause = api, reconnect_after
        self._stop = threading.Event()
        self._phases: dict[str, str] = {}
        self._threads: dict[str, threading.Thread] = {}

    def see(self, pods: Iterable[Mapping[str, Any]]) -> None:
        """Tell the state of the pods; a new pod of node 0 that has begun is followed from now on."""
        seen = {pod["metadata"]["uid"]: pod for pod in pods if rank_of(pod) == 0}
        self._phases = {uid: str((pod.get("status") or {}).get("phase", "")) for uid, pod in seen.items()}
        for uid, pod in seen.items():
            if uid not in self._threads and self._phases[uid] not in ("", "Pending"):
                words = (pod["metadata"]["name"], uid)
                self._threads[uid] = threading.Thread(target=self._follow, args=words, name="log", daemon=True)
                self._threads[uid].start()

    def come_to_their_end(self, seconds: float) -> None:
        """Wait until the logs were shown to their end, at most `seconds`; call it when the job has ended."""
        for uid in self._threads:
            self._phases[uid] = OVER[0]
        for thread in self._threads.values():
            thread.join(seconds / max(len(self._threads), 1))

    def stop(self) -> None:
        """Follow no more."""
        self._stop.set()

    def _follow(self, name: str, uid: str) -> None:
        shown = _Shown()
        while not self._stop.is_set():
            over = self._phases.get(uid, OVER[0]) in OVER  # before the log is read: then it was whole
            try:
                for line in self._api.log_of(name, shown.since):
                    if (text := shown.new(line)) is not None:
                        log.info(text)
                    if self._stop.is_set():
                        return
                if over:
                    return
            except Exception as error:  # a container that has not begun, a connection that broke
                if getattr(error, "status", None) in (403, 404):  # not ours to read, or a pod that is gone
                    return
            shown.again()
            self._stop.wait(self._pause)


class _Shown:
    """Which lines were shown: a log that is read again begins within the second of its last line."""

    def __init__(self) -> None:
        self.since = ""
        self._last, self._at_last = "", 0
        self._skip = 0

    def new(self, line: str) -> str | None:
        """Return the text of a line that was not shown yet; None for one that was."""
        stamp, _, text = line.partition(" ")
        if stamp < self._last:
            return None
        if stamp == self._last:
            if self._skip:
                self._skip -= 1
                return None
            self._at_last += 1
        else:
            self._last, self._at_last, self._skip = stamp, 1, 0
        return text

    def again(self) -> None:
        """Tell that the log is read again."""
        self.since, self._skip = self._last, self._at_last


def last_lines(api: Api, pod: Mapping[str, Any], count: int = LINES) -> list[str]:
    """Return the last lines of a pod, or why there are none."""
    try:
        return api.last_lines(pod["metadata"]["name"], count)
    except Exception as error:
        return [f"(its log cannot be read: {' '.join(str(error).split())[:200]})"]
