"""Delete TrainJobs of our trainings that nobody follows any more.

A job is followed by a pod of its run. KFP starts a pod that was deleted again within a minute, so a job that has none
is looked at twice before it is deleted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipelines.client.pods import RUN_LABEL as RUN_OF_POD
from steps.errors import Outage, Problem, StepError, UserError
from steps.params.nodes import GROUP, MANAGED_BY, MANAGER, PLURAL, RUN_LABEL, VERSION

SECONDS = 30  # for one answer
SETTLE = 60.0  # seconds between the two looks
OVER = ("Succeeded", "Failed")
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
ROLE = "the role finetune-trainjobs of docs/install.yaml"


@dataclass
class Reaped:
    """What was found in a namespace."""

    namespace: str
    removed: dict[str, str] = field(default_factory=dict)
    """Job → why it is not needed."""
    kept: dict[str, str] = field(default_factory=dict)
    """Job → why it stays."""


@dataclass(frozen=True)
class _Job:
    name: str
    uid: str
    run: str
    owners: tuple[tuple[str, str], ...]
    """Name and uid of the pods that own it."""
    ended: datetime | None
    """When it was complete, or failed; None while it goes on."""
    state: str


def reap(
    namespace: str = "",
    kube_context: str = "",
    dry_run: bool = False,
    keep_finished: float = 24.0,
    settle: float = SETTLE,
    tell: Callable[[str], Any] = lambda _: None,
) -> Reaped:
    """Delete the jobs of runs that have ended, in one namespace; `dry_run` only finds them.

    A job that ended by itself uses no machine and stays for `keep_finished` hours, because it tells why it failed.
    Raises UserError if the cluster cannot be asked, or may not, Outage if it does not answer.
    """
    api = _Cluster(namespace, kube_context)
    found = Reaped(api.namespace)
    left, wait = [], False
    for job in api.jobs():
        if api.is_followed(job):
            found.kept[job.name] = f"its run {job.run} goes on"
        elif job.ended and (hours := _hours_since(job.ended)) < keep_finished:
            found.kept[job.name] = f"{job.state} {hours:.0f} h ago: it stays for {keep_finished:g} h"
        else:
            left.append(job)
            wait = wait or not job.ended
    if wait and not dry_run and settle:
        tell(f"{len(left)} of {len(left) + len(found.kept)} jobs seem to be left behind: looking again in {settle:g} s")
        time.sleep(settle)
    for job in left:
        if not dry_run and api.is_followed(job):
            found.kept[job.name] = f"its run {job.run} goes on"
            continue
        if not dry_run:
            api.delete(job)
        found.removed[job.name] = f"{job.state}, and no pod of its run {job.run} is left that follows it"
    return found


def _hours_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds() / 3600


class _Cluster:
    """The Kubernetes API, for one namespace."""

    def __init__(self, namespace: str, kube_context: str):
        from kubernetes import client, config

        try:
            try:
                if kube_context:
                    raise config.ConfigException("a context is named")
                configuration = client.Configuration()
                config.load_incluster_config(configuration)
                connected, own = client.ApiClient(configuration), _text(NAMESPACE_FILE)
            except config.ConfigException:
                connected = config.new_client_from_config(context=kube_context or None)
                own = _namespace_of(kube_context)
        except Exception as error:  # a missing or broken kubeconfig, a plugin that cannot log in
            raise _not_reached(error) from None
        connected.rest_client.pool_manager.connection_pool_kw["retries"] = 2
        self.namespace = namespace or own or "default"
        self._jobs, self._core = client.CustomObjectsApi(connected), client.CoreV1Api(connected)
        self._followed: dict[str, bool] = {}

    def jobs(self) -> Iterator[_Job]:
        """Yield our jobs, by name."""
        selector = f"{MANAGED_BY}={MANAGER}"
        found = self._asked(
            self._jobs.list_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, label_selector=selector
        )
        for one in sorted(found["items"], key=lambda one: str(one["metadata"]["name"])):
            if not one["metadata"].get("deletionTimestamp"):
                yield _job(one)

    def is_followed(self, job: _Job) -> bool:
        """Return whether a pod of the job's run, or the pod that made it, has not ended."""
        selector = f"{RUN_OF_POD}={job.run}"
        pods = self._asked(self._core.list_namespaced_pod, self.namespace, label_selector=selector).items
        owners = {uid for _, uid in job.owners}
        if any((pod.status.phase or "") not in OVER for pod in pods):
            return True
        for name, _ in job.owners:
            pod = self._asked(self._core.read_namespaced_pod, name, self.namespace, missing=True)
            if pod and pod.metadata.uid in owners and (pod.status.phase or "") not in OVER:
                return True
        return False

    def delete(self, job: _Job) -> None:
        """Delete a job with its pods; it may be gone already, or another one may have its name."""
        body = {"propagationPolicy": "Foreground", "preconditions": {"uid": job.uid}}
        self._asked(
            self._jobs.delete_namespaced_custom_object, GROUP, VERSION, self.namespace, PLURAL, job.name, body=body,
            missing=True,
        )  # fmt: skip

    def _asked(self, request: Callable[..., Any], *arguments: Any, missing: bool = False, **named: Any) -> Any:
        """Return an answer; None for what is not there, with `missing`."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return request(*arguments, **named, _request_timeout=SECONDS)
        except ApiException as error:
            if missing and error.status in (404, 409):
                return None
            raise self._refused(error) from None
        except (HTTPError, OSError) as error:
            raise _silent(str(error)) from None

    def _refused(self, error: Any) -> StepError:
        words = f"{error.status} {error.reason}"
        if error.status in (401, 403):
            return UserError(
                Problem("REAP-E0201", f"namespace {self.namespace}", words, "an account that may list and delete "
                        "trainjobs, and list and get pods", f"use one with {ROLE}")
            )  # fmt: skip
        if error.status == 404:
            return UserError(
                Problem("REAP-E0202", f"namespace {self.namespace}", "no TrainJobs in this cluster",
                        "Kubeflow Trainer 2.2 or newer", "name another cluster by --kube-context")
            )  # fmt: skip
        return _silent(words)


def _silent(words: str) -> Outage:
    told = " ".join(words.split())[:300]
    return Outage(Problem("REAP-E0401", "the Kubernetes API", told, "an answer", "run again"))


def _job(one: Mapping[str, Any]) -> _Job:
    metadata = one["metadata"]
    ends = [condition for condition in (one.get("status") or {}).get("conditions") or ()
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True"]  # fmt: skip
    owners = (
        (owner["name"], owner["uid"]) for owner in metadata.get("ownerReferences") or () if owner["kind"] == "Pod"
    )
    when = datetime.fromisoformat(ends[0]["lastTransitionTime"]) if ends else None
    state = {"Complete": "complete", "Failed": "failed"}[ends[0]["type"]] if ends else "not ended"
    run = str((metadata.get("labels") or {}).get(RUN_LABEL, ""))
    return _Job(metadata["name"], metadata["uid"], run, tuple(owners), when, state)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _namespace_of(context: str) -> str:
    """Return the namespace that a context of kubeconfig names; empty if it names none."""
    from kubernetes import config

    contexts, active = config.list_kube_config_contexts()
    named = next((one for one in contexts if one["name"] == context), active)
    return str(named["context"].get("namespace") or "")


def _not_reached(error: Exception) -> UserError:
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(
        Problem("REAP-E0203", "--kube-context", words, "a context of kubeconfig that leads to a cluster",
                "set KUBECONFIG, or name a context of it")
    )  # fmt: skip
