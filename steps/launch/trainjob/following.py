"""Wait until a TrainJob has ended, and tell what it waits for.

Only the conditions Complete and Failed end the waiting: a job has no condition for "running", one that Kueue suspended
waits as long as it takes, and its deadline is the Trainer's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from steps.errors import Preempted, Problem, StepError, UserError
from steps.launch.trainjob.api import Api, rank_of
from steps.launch.trainjob.creating import Job, end_of
from steps.launch.trainjob.logs import FirstLog
from steps.stopping import refuse_after_stop

log = logging.getLogger("finetune")

RESTART = "jobset.sigs.k8s.io/restart-attempt"
# What a container waits for in the normal course of things.
NORMAL = {"", "ContainerCreating", "PodInitializing"}
# Exit codes of errors that another try meets again. A bug (70) is not among them: when a node is lost, that is how the
# broken connections of the others end.
STAYS = {2, 3, 5, 6}
Told = Callable[[], StepError | None]


def followed(
    api: Api, job: Job, told: Told, logs: FirstLog, look_every: float, grace: float
) -> tuple[Job, StepError | None]:
    """Return the job when it has ended, and what the training told of itself.

    The job that is returned has not ended if the training told an error that another try would meet again, and it still
    goes on `grace` seconds later: its runtime starts it again and again. Raises Preempted if somebody deletes it, and
    Stopped if this process was asked to stop and what that raised was lost.
    """
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    looks = _Looks(api)
    since: float | None = None
    state = ""
    while True:
        found = api.job(name)
        if found is None or found["metadata"]["uid"] != uid or found["metadata"].get("deletionTimestamp"):
            raise _deleted(name)
        pods = looks.pods(name)
        logs.see(pods)
        error = _asked(told)
        if end_of(found):
            return found, error
        if error is None or error.exit_code not in STAYS:
            since = None
        else:
            since = time.monotonic() if since is None else since
            if time.monotonic() - since >= grace:
                return found, error
        if (now := state_of(found, pods)) != state:
            state = now
            log.info("TrainJob %s: %s", name, state)
        refuse_after_stop()
        time.sleep(look_every)


class _Looks:
    """The pods of a job, as long as this service account may see them."""

    def __init__(self, api: Api):
        self._api = api
        self._refused = False

    def pods(self, name: str) -> list[dict[str, Any]]:
        if self._refused:
            return []
        try:
            return self._api.pods_of(name)
        except UserError as error:
            self._refused = True
            log.info("the pods of the training cannot be seen, so their logs are not shown: %s", error)
            return []


def state_of(job: Job, pods: list[dict[str, Any]]) -> str:
    """Say in a few words what a job does."""
    status = job.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] == "Suspended" and condition["status"] == "True":
            return "queued, as it is suspended" + (f" ({words})" if (words := _words(condition)) else "")
    count = (job["spec"].get("trainer") or {}).get("numNodes") or len(pods)
    counts: Mapping[str, Any] = next((one for one in status.get("jobsStatus") or () if one["name"] == "node"), {})
    if not pods:
        return "running" if counts.get("ready") else "queued, as it has no pods yet"
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") == "Running"]
    waits = sorted(set(_waits(pods)))
    restarts = max((int((pod["metadata"].get("labels") or {}).get(RESTART) or 0) for pod in pods), default=0)
    again = f", after {restarts} restart{'s' if restarts > 1 else ''} of all nodes" if restarts else ""
    what = f"{len(running)} of {count} nodes run{again}"
    return f"{what}; {'; '.join(waits[:3])}" if waits else what


def _waits(pods: list[dict[str, Any]]) -> Iterator[str]:
    for pod in pods:
        status = pod.get("status") or {}
        if status.get("phase") != "Pending":
            continue
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False" and condition.get("message"):
                yield f"waiting: {_short(condition['message'])}"
        for one in status.get("containerStatuses") or ():
            waiting = (one.get("state") or {}).get("waiting") or {}
            if (waiting.get("reason") or "") not in NORMAL:
                told = _short(waiting.get("message") or "no details")
                yield f"node {rank_of(pod)} waits: {waiting['reason']}: {told}"


def _asked(told: Told) -> StepError | None:
    """Ask what the training told; a folder that does not answer tells nothing."""
    try:
        return told()
    except Exception as error:
        log.debug("what the training told cannot be read: %s", error)
        return None


def _deleted(name: str) -> Preempted:
    return Preempted(
        Problem("NODES-E1431", f"TrainJob {name}", "a job that was deleted while its training went on", "its end",
                "run again: it goes on at its newest checkpoint")
    )  # fmt: skip


def _words(condition: Mapping[str, Any]) -> str:
    return _short(condition.get("message") or condition.get("reason") or "")


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
