"""Run a command on every node of a TrainJob, and return when the job is complete."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from steps.errors import StepError
from steps.launch.lease import EVERY, Lease
from steps.launch.trainjob.api import Api, Refused, in_cluster
from steps.launch.trainjob.creating import Job, begun, end_of, is_ours
from steps.launch.trainjob.failing import error_of
from steps.launch.trainjob.following import Told, followed
from steps.launch.trainjob.logs import FirstLog
from steps.launch.trainjob.manifest import job_name, manifest_of
from steps.launch.trainjob.own_pod import OwnPod, own_pod
from steps.params.distributed import Processes
from steps.params.nodes import NodeSettings

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Times:
    """Seconds."""

    look_every: float = 10.0
    """Between two looks at the job."""
    renew_every: float = EVERY
    """Between two renewals of the lease."""
    patience: float = 1800.0
    """Without an answer of the Kubernetes API, after which the training is left to itself."""
    first_wait: float = 1.0
    """Before the second try of a request; it doubles with every further one."""
    grace: float = 120.0
    """For a job to end by itself after its training told an error that another try would meet again."""
    logs: float = 20.0
    """For the logs to arrive when the job has ended."""
    hurry: float = 5.0
    """For a job to be deleted when this process is asked to stop."""


def run_on_nodes(
    command: Sequence[str],
    nodes: NodeSettings,
    processes: Processes,
    identity: str,
    manifest: Path,
    alive: str = "",
    told: Told = lambda: None,
    before_start: Callable[[], None] = lambda: None,
    times: Times = Times(),
) -> None:
    """Run `command` in the image of this task on `processes.nodes` nodes, and return when all have succeeded.

    `identity` is the same text for every try of this training and another one for each other training of the task: a
    second try follows the job of the first, or returns at once if that is complete. The TrainJob is written to
    `manifest`. `alive` is the path or URI of the lease (`steps/launch/lease.py`), which is renewed until the job ends.
    `told` returns the error that the training wrote for us, if it did; `before_start` is called before a job is
    created, to remove what an earlier one wrote.

    Raises what the training told, or the error that its pods show (UserError, SecurityRefusal, Outage, OutOfResources,
    NumericError, Preempted), with events and last log lines as notes; UserError if the cluster refuses the job; Outage
    if the Kubernetes API does not answer for `times.patience`.
    """
    api, own = in_cluster(times.patience, times.first_wait)
    try:
        pod = own_pod(api.pod(own), os.environ)
    except Refused as refused:
        raise RuntimeError(f"the pod of this task, {own}, cannot be read: {refused}") from refused
    name = job_name(pod, identity)

    def make(attempt: int) -> Job:
        return manifest_of(name, command, pod, nodes, processes, attempt)

    with _renewed(alive, times.renew_every), _deleted_with_us(api, pod, name, times.hurry):
        job = begun(api, pod, name, make, manifest, before_start, times.look_every)
        error = _end_of_training(api, job, told, times)
    if error is not None:
        raise error
    with suppress(StepError, Refused):
        api.delete(name, job["metadata"]["uid"])
        log.info("TrainJob %s is complete and deleted", name)


def _end_of_training(api: Api, job: Job, told: Told, times: Times) -> StepError | None:
    """Follow a job to its end; return None if it is complete."""
    logs = FirstLog(api, min(2.0, times.look_every))
    try:
        ended, said = (job, None) if end_of(job) else followed(api, job, told, logs, times.look_every, times.grace)
        logs.come_to_their_end(times.logs)
    finally:
        logs.stop()
    if end_of(ended) == "Complete":
        return None
    error = error_of(api, ended, said)
    if not end_of(ended):
        api.delete(job["metadata"]["name"], job["metadata"]["uid"])
        error.add_note("The job was deleted, because its runtime started the nodes again after an error that stays.")
    return error


@contextmanager
def _deleted_with_us(api: Api, pod: OwnPod, name: str, hurry: float) -> Iterator[None]:
    """Delete the job when this process is asked to stop, as far as the time allows; an error leaves it."""
    try:
        yield
    except Exception:
        raise
    except BaseException:
        with suppress(Exception):
            hurried = api.hurried(hurry)
            job = hurried.job(name)
            if job and is_ours(job, pod, name) and not end_of(job):
                hurried.delete(name, job["metadata"]["uid"])
                log.info("TrainJob %s is deleted, as this task was stopped", name)
        raise


@contextmanager
def _renewed(place: str, every: float) -> Iterator[None]:
    """Renew a lease in a thread while the block runs."""
    if not place:
        yield
        return
    stop, lease = threading.Event(), Lease(place)

    def renew() -> None:
        lost = False
        while True:
            try:
                lease.renew()
                lost = False
            except Exception as error:
                if not lost:
                    log.info("the lease %s cannot be renewed, trying again: %s", place, error)
                lost = True
            if stop.wait(every):
                return

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(every)
