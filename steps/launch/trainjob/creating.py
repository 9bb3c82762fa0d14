"""Begin a training's TrainJob, or take the one that an earlier try of the same task made.

The name is the same for every try. So a task that is started again finds its job, whatever happened between the request
that made it and the end of the process that sent it.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steps.errors import Outage, Problem, StepError, UserError
from steps.launch.trainjob.api import INSTALLED, Api, Refused, words_of
from steps.launch.trainjob.manifest import ATTEMPT, LAUNCHER, TASK_LABEL, label
from steps.launch.trainjob.own_pod import OwnPod
from steps.params.nodes import MANAGED_BY, MANAGER, RUN_LABEL
from steps.stopping import refuse_after_stop

log = logging.getLogger("finetune")

GONE_WITHIN = 3600.0  # seconds in which a deleted job ends; its pods have their grace period first
ENDS = ("Complete", "Failed")
Job = dict[str, Any]


def begun(
    api: Api,
    pod: OwnPod,
    name: str,
    make: Callable[[int], Job],
    manifest: Path,
    before_start: Callable[[], None],
    look_every: float,
) -> Job:
    """Return the TrainJob of this task: a new one, or one of an earlier try that goes on or is complete.

    `make` returns the TrainJob of an attempt. It is written to `manifest`; before a job is created, `before_start` is
    called. One that failed is deleted first. Raises UserError if the cluster refuses it, or if somebody else's job has
    the name.
    """
    attempt = 1
    checked = False
    while True:
        if job := api.job(name):
            if not is_ours(job, pod, name):
                raise _of_somebody_else(name, job)
            if not _is_leaving(job) and end_of(job) != "Failed":
                return _taken(api, pod, job)
            attempt = attempt_of(job) + 1
            log.info("TrainJob %s %s: it is replaced by attempt %d", name, "failed" if end_of(job) else "ends", attempt)
            remove(api, job, look_every)
        body = make(attempt)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps(body, indent=1), encoding="utf-8")
        try:
            if not checked:
                _refuse_old(api.create(body, dry_run=True))
                checked = True
            before_start()
            made = api.create(body)
        except Refused as refused:
            if refused.status == 409:  # it is there by now: another try made it, or the answer to this one was lost
                continue
            raise _explained(refused, body) from None
        log.info("created TrainJob %s in namespace %s, attempt %d", name, api.namespace, attempt)
        return made


def is_ours(job: Job, pod: OwnPod, name: str) -> bool:
    """Return whether a TrainJob was made for this task."""
    labels = job["metadata"].get("labels") or {}
    wanted = {MANAGED_BY: MANAGER, RUN_LABEL: label(pod.run), TASK_LABEL: name}
    return all(labels.get(key) == value for key, value in wanted.items())


def end_of(job: Job) -> str:
    """Return how a TrainJob ended, Complete or Failed; empty while it has not."""
    for condition in (job.get("status") or {}).get("conditions") or ():
        if condition["type"] in ENDS and condition["status"] == "True":
            return str(condition["type"])
    return ""


def attempt_of(job: Job) -> int:
    """Return which attempt of the training a TrainJob is."""
    text = (job["metadata"].get("labels") or {}).get(ATTEMPT, "")
    return int(text) if text.isdigit() else 1


def remove(api: Api, job: Job, look_every: float) -> None:
    """Delete a TrainJob and wait until it is gone. Raises Outage if it is still there after an hour."""
    name, uid = job["metadata"]["name"], job["metadata"]["uid"]
    began = time.monotonic()
    if not _is_leaving(job):
        api.delete(name, uid)
    while (there := api.job(name)) and there["metadata"]["uid"] == uid:
        if time.monotonic() - began > GONE_WITHIN:
            raise Outage(
                Problem("NODES-E0402", f"TrainJob {name}", "still there an hour after it was deleted", "its end",
                        f"see its finalizers and pods: kubectl describe trainjob {name} --namespace {api.namespace}")
            )  # fmt: skip
        refuse_after_stop()
        time.sleep(look_every)


def _taken(api: Api, pod: OwnPod, job: Job) -> Job:
    """Take a job that an earlier try made, and become one of its owners."""
    name, owners = job["metadata"]["name"], job["metadata"].get("ownerReferences") or []
    maker = (job["metadata"].get("labels") or {}).get(LAUNCHER, "?")
    log.info("TrainJob %s of an earlier try (pod %s) %s", name, maker, "is complete" if end_of(job) else "goes on")
    missing = [dict(owner) for owner in pod.owners if owner["uid"] not in {one["uid"] for one in owners}]
    if missing and not end_of(job):
        try:
            api.own(name, [*owners, *missing], job["metadata"]["resourceVersion"])
        except (Refused, UserError) as error:  # the lease still ends it with this task
            log.info("its owners stay as they are: %s", words_of(error) if isinstance(error, Refused) else error)
    return job


def _is_leaving(job: Job) -> bool:
    return bool(job["metadata"].get("deletionTimestamp"))


def _refuse_old(checked: Mapping[str, Any]) -> None:
    """Raise UserError if the server would drop what it does not know, as the definitions before 2.2 do."""
    if not checked["spec"].get("runtimePatches"):
        raise UserError(
            Problem("NODES-E0204", "Kubeflow Trainer", "a TrainJob without runtimePatches, as before version 2.2",
                    "Kubeflow Trainer 2.2 or newer", INSTALLED)
        )  # fmt: skip


def _of_somebody_else(name: str, job: Job) -> UserError:
    labels = job["metadata"].get("labels") or {}
    told = ", ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "no labels"
    return UserError(
        Problem("NODES-E0205", f"TrainJob {name}", f"one that this task did not make ({told[:300]})",
                "no TrainJob of this name, or one of this task", "delete it, or rename it, and run again")
    )  # fmt: skip


def _explained(refused: Refused, body: Job) -> StepError:
    runtime, words = body["spec"]["runtimeRef"], words_of(refused)
    if refused.status == 404 and "namespaces" not in words:
        return UserError(
            Problem("NODES-E0206", "Kubeflow Trainer", f"no TrainJobs in this cluster ({words})",
                    "Kubeflow Trainer 2.2 or newer", INSTALLED)
        )  # fmt: skip
    if "runtimePatches" in words and "unknown field" in words:
        return UserError(Problem("NODES-E0208", "Kubeflow Trainer", words, "Kubeflow Trainer 2.2 or newer", INSTALLED))
    named = f"{runtime['kind']} {runtime['name']}"
    no_runtime = "untime" in words and any(mark in words for mark in ("not found", "must be created", "not support"))
    fix = (f"create {named}, as in docs/training-runtime.yaml, or set training_runtime_finetune" if no_runtime
           else "change what it names")  # fmt: skip
    return UserError(
        Problem("NODES-E0207", f"TrainJob {body['metadata']['name']}", f"{refused.status} {words}",
                f"a TrainJob that the cluster takes, with {named}", fix)
    )  # fmt: skip
