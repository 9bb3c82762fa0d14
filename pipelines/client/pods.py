"""What Kubernetes says of the pods of a run: why one waits, and the last words of one that failed.

KFP's API tells neither: a pod that no node can take is RUNNING there. Without access to the pods nothing is lost but
these words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.client.connection import INSTALLED_IN, Server

RUN_LABEL = "pipeline/runid"
NODE_NAME = "workflows.argoproj.io/node-name"
SECONDS = 10
# What a container waits for in the normal course of things.
NORMAL = {"", "ContainerCreating", "PodInitializing"}
MAIN = "main"


@dataclass(frozen=True)
class PodState:
    """One pod of a run."""

    task: str
    """Name of the task; a driver's ends with -driver."""
    waits_for: str = ""
    """Why it does not run, in the words of the scheduler or of the node; empty if nothing is wrong."""
    failed: bool = False
    message: str = ""
    """Termination message of the main container."""
    reason: str = ""
    said: str = ""
    code: int | None = None


class Pods:
    """Access to the pods of one run."""

    def __init__(self, server: Server, run_id: str):
        self.run_id = run_id
        self.namespace = server.namespace or INSTALLED_IN
        self.refused = ""
        """Why the pods cannot be asked; empty if they can."""
        self._api = self._connected(server)

    def _connected(self, server: Server) -> Any:
        from kubernetes import client, config

        try:
            try:
                config.load_incluster_config()
                api = client.CoreV1Api()
            except config.ConfigException:
                context = server.connection.kube_context or None
                file = os.environ.get("KUBECONFIG") or None
                api = client.CoreV1Api(config.new_client_from_config(file, context))
        except Exception as error:  # a missing or broken kubeconfig, a plugin that cannot log in
            self.refused = " ".join(str(error).split())[:200] or type(error).__name__
            return None
        # One try: the next look comes soon anyway.
        api.api_client.rest_client.pool_manager.connection_pool_kw["retries"] = False
        return api

    def states(self) -> list[PodState]:
        """Return the state of every pod; none without access, which is then not asked for again."""
        if self._api is None:
            return []
        try:
            found = self._api.list_namespaced_pod(
                self.namespace, label_selector=f"{RUN_LABEL}={self.run_id}", _request_timeout=SECONDS
            )
        except Exception as error:
            status = getattr(error, "status", None)
            self.refused = f"{status} {error.reason}" if status else " ".join(str(error).split())[:200]  # type: ignore[attr-defined]
            if status in (401, 403, 404):
                self._api = None
            return []
        self.refused = ""
        return [_state(pod) for pod in found.items]


def _state(pod: Any) -> PodState:
    task, status = _task(pod), pod.status
    statuses = list(status.container_statuses or ()) + list(status.init_container_statuses or ())
    if status.phase == "Failed":
        ended = [one for one in statuses if one.state and one.state.terminated and one.state.terminated.exit_code]
        main = next((one for one in ended if one.name == MAIN), ended[0] if ended else None)
        last = main.state.terminated if main else None
        reason = (last.reason if last and last.reason != "Error" else "") or status.reason or ""
        message = (last.message if last else "") or ""
        code = last.exit_code if last else None
        return PodState(task, "", True, message, reason, message or status.message or "", code)
    if status.phase == "Pending":
        return PodState(task, next(_waits(status, statuses), ""))
    return PodState(task)


def _waits(status: Any, statuses: list[Any]) -> Iterator[str]:
    for condition in status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            yield condition.message or condition.reason or "not scheduled"
    for one in statuses:
        waiting = one.state.waiting if one.state else None
        if waiting and (waiting.reason or "") not in NORMAL:
            image = f" ({one.image})" if "Image" in waiting.reason and one.image not in (waiting.message or "") else ""
            yield f"{waiting.reason}: {waiting.message or 'no details'}{image}"


def _task(pod: Any) -> str:
    """Return the task of a pod: Argo's node name is `workflow.root.finetune.executor`, later `…executor(1)`."""
    name = (pod.metadata.annotations or {}).get(NODE_NAME, "")
    parts = [re.sub(r"\(\d+\)$", "", part) for part in name.split(".")]
    while len(parts) > 1 and parts[-1] == "executor":
        parts.pop()
    return parts[-1] or pod.metadata.name
