"""When a request to a server is sent, sent again, or given up."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from steps.errors import Outage, Problem, StepError, UserError
from steps.generation.endpoint_messages import Unreadable
from steps.params.secrets import without_secrets

T = TypeVar("T")

PATIENCE = 100.0  # seconds without any answer of the server, after which it counts as not available
TRIES = 10  # of one request while the server answers others
LATE_TRIES = 2  # of a request that the server does not answer in time, while it answers others
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0  # seconds
TOLD_EVERY = 10.0  # seconds between two lines of the log about failures
PASSING = {408, 409, 425, 429}  # and 500 to 599
NO_QUOTA = "insufficient_quota"  # a 429 that waiting does not change
LONGEST_TEXT = 300

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Failure:
    """Why a request failed."""

    told: str
    kind: str
    """refused, passing, busy (the server asks to wait) or late."""
    status: int = 0
    wait: float | None = None
    """Seconds that the server asks to wait."""


class Pace:
    """Spaces requests, pauses all of them while the server asks for it, and knows when to give up."""

    def __init__(self, url: str, per_minute: int):
        self.url = url
        self.interval = 60.0 / per_minute if per_minute else 0.0
        self._next = self._told = 0.0
        self._paused_until = 0.0
        self.last_answer = 0.0

    async def turn(self) -> None:
        """Wait until the next request may be sent."""
        while (now := time.monotonic()) < self._paused_until:
            await asyncio.sleep(self._paused_until - now)
        if self.interval:
            start = max(now, self._next)
            self._next = start + self.interval
            await asyncio.sleep(start - now)

    async def answered(self, call: Callable[[], Awaitable[T]], where: str) -> T:
        """Send a request until it is answered.

        Raises UserError if the server refuses it, Outage if it fails for `PATIENCE` seconds in which the server
        answered no other, or `TRIES` times.
        """
        first = 0.0
        tries = late = 0
        while True:
            await self.turn()
            first = first or time.monotonic()
            try:
                answer = await call()
            except Exception as error:
                failure = failure_of(error)
                if failure is None:
                    raise
            else:
                self.last_answer = time.monotonic()
                return answer
            if failure.kind == "refused":
                raise refusal(failure, self.url, where)
            tries += failure.kind != "busy"
            late += failure.kind == "late"
            wait = failure.wait if failure.wait is not None else _pause(tries)
            lost = time.monotonic() + wait - max(first, self.last_answer)
            if lost > PATIENCE or tries >= TRIES or late >= LATE_TRIES:
                raise given_up(failure, self.url, where, tries)
            await self._pause_after(failure, wait)

    async def _pause_after(self, failure: Failure, wait: float) -> None:
        now = time.monotonic()
        if now - self._told > TOLD_EVERY:
            self._told = now
            log.warning("%s: %s; trying again in %.1f s", self.url, failure.told, wait)
        if failure.wait is not None:
            self._paused_until = max(self._paused_until, now + wait)
        else:
            await asyncio.sleep(wait)


def _pause(tries: int) -> float:
    """Return the seconds before another try: twice as long each time, with a random part against waves."""
    longest: float = min(FIRST_PAUSE * 2.0 ** max(tries - 1, 0), LONGEST_PAUSE)
    return longest * random.uniform(0.75, 1.0)


def failure_of(error: Exception) -> Failure | None:
    """Return what an error means; None for one that is not the server's."""
    import httpx2
    import openai

    if isinstance(error, Unreadable):
        return Failure(told(str(error)), "passing")
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Failure("no answer in time", "late")
    if isinstance(error, openai.APIStatusError):
        return _of_status(error)
    if isinstance(error, openai.APIError | httpx2.HTTPError):
        cause = error.__cause__
        return Failure(told(f"{error} {cause or ''}".strip()), "passing")
    return None


def _of_status(error: Any) -> Failure:
    said = told(f"{error.status_code}: {_said(error)}")
    if error.status_code not in PASSING and error.status_code < 500:
        return Failure(said, "refused", error.status_code)
    if getattr(error, "code", None) == NO_QUOTA or getattr(error, "type", None) == NO_QUOTA:
        return Failure(said, "busy", error.status_code, wait=float("inf"))
    wait = asked_to_wait(error.response.headers)
    busy = error.status_code == 429 or wait is not None
    return Failure(said, "busy" if busy else "passing", error.status_code, wait)


def _said(error: Any) -> str:
    """Return the server's own message."""
    body = error.body
    for key in ("error", "message", "detail"):
        if isinstance(body, dict) and key in body:
            body = body[key]
    return str(body) if body else error.response.text or error.response.reason_phrase


def asked_to_wait(headers: Any) -> float | None:
    """Return the seconds that the headers Retry-After-Ms or Retry-After (seconds, or a date) ask for; None without."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
        if math.isfinite(seconds):  # no time would ever be reached
            return max(seconds, 0.0)
    try:
        when = parsedate_to_datetime(headers.get("retry-after") or "")
    except (TypeError, ValueError):
        return None
    return max((when.astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def told(text: str) -> str:
    """Return a server's words for a message: on one line, without credentials, cut."""
    line = " ".join(without_secrets(text).split())
    return line if len(line) <= LONGEST_TEXT else line[: LONGEST_TEXT - 1] + "…"


def refusal(failure: Failure, url: str, where: str) -> StepError:
    """Return the error for a request that the server refuses."""
    fix = {
        401: "give the server's key as OPENAI_API_KEY (in a cluster: endpoint_key_secret)",
        403: "give a key that may use this model, as OPENAI_API_KEY (in a cluster: endpoint_key_secret)",
        404: "correct endpoint_model, or endpoint_url, which usually ends with /v1",
        413: "shorten the prompt, or lower max_length",
    }.get(failure.status, "change what the server names")
    found = f"the server said {failure.told}"
    return UserError(Problem("GEN-E0241", f"endpoint_url {told(url)}, {where}", found, "an accepted request", fix))


def given_up(failure: Failure, url: str, where: str, tries: int) -> StepError:
    """Return the error for a server that does not answer."""
    fix = "see that the server runs and has room for more requests, then run again"
    if failure.kind == "late":
        fix = "raise endpoint_timeout_seconds, lower endpoint_concurrency or max_new_tokens, then run again"
    elif failure.wait == float("inf"):
        fix = "raise the quota of the account, then run again"
    elif failure.wait and failure.wait > PATIENCE:
        fix = f"run again in {failure.wait:.0f} s, as the server asks"
    found = f"{failure.told} ({max(tries, 1)} tries)"
    return Outage(
        Problem("GEN-E0441", f"endpoint_url {told(url)}, {where}", found, "an answer", fix),
        transient=failure.wait != float("inf"),
    )
