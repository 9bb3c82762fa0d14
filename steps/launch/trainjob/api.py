"""The Kubernetes API as a launcher needs it: it asks again while there is no answer, and explains a refusal.

The objects are those of the API's JSON, so that what is written is what the schemas of Kubernetes and of Kubeflow
Trainer describe.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steps.errors import Outage, Problem, StepError, UserError
from steps.launch.trainjob.manifest import NODE
from steps.params.nodes import GROUP, PLURAL, VERSION
from steps.redaction import masked

log = logging.getLogger("finetune")

POD_NAME, NAMESPACE = "KFP_POD_NAME", "KFP_NAMESPACE"  # the first is set by KFP's backend, 2.0 to 2.17
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
NO_ANSWER = {0, 408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 30.0  # seconds between two tries
CONNECT, ANSWER, SILENCE = 5, 30, 300  # seconds; the last is how long a log that is followed may say nothing
# As docs/install.yaml grants them.
RIGHTS = {
    "trainjobs": "create, get, list, watch, patch and delete", "pods": "get, list and watch", "pods/log": "get",
    "events": "list",
}  # fmt: skip
INSTALLED = "install Kubeflow Trainer 2.2 or newer, or set num_nodes_finetune=1"


class Refused(Exception):
    """An answer that another request gets as well."""

    def __init__(self, status: int, message: str, reason: str):
        self.status, self.message, self.reason = status, message, reason
        super().__init__(f"{status} {reason}: {message}")


class Api:
    """Requests in one namespace.

    A request without an answer (a broken connection, 429, 5xx) is sent again for `patience` seconds. All methods raise
    Outage after that, and UserError if this service account may not do it.
    """

    def __init__(self, client: Any, namespace: str, patience: float, first_wait: float = 1.0):
        self._client, self._patience, self._first_wait = client, patience, first_wait
        self.namespace = namespace
        # Our own tries are enough; the client's would triple them.
        client.rest_client.pool_manager.connection_pool_kw["retries"] = False

    def hurried(self, patience: float) -> Api:
        """Return the same API with another patience."""
        return Api(self._client, self.namespace, patience, self._first_wait)

    def pod(self, name: str) -> dict[str, Any]:
        """Return a pod. Raises Refused if there is none."""
        return self.ask("GET", self._core("pods", name))

    def pods_of(self, job: str) -> list[dict[str, Any]]:
        """Return the pods of a TrainJob's nodes, by their number."""
        selector = f"jobset.sigs.k8s.io/jobset-name={job},jobset.sigs.k8s.io/replicatedjob-name={NODE}"
        found = self.ask("GET", self._core("pods"), {"labelSelector": selector}).get("items") or []
        return sorted(found, key=lambda pod: (rank_of(pod), pod["metadata"].get("creationTimestamp") or ""))

    def events_of(self, name: str) -> list[dict[str, Any]]:
        """Return the events about an object."""
        selector = {"fieldSelector": f"involvedObject.name={name}"}
        return list(self.ask("GET", self._core("events"), selector).get("items") or [])

    def last_lines(self, pod: str, count: int) -> list[str]:
        """Return the last lines of the log of a node's container."""
        query = {"container": NODE, "tailLines": str(count)}
        return self.read(self._core("pods", pod, "log"), query).splitlines()

    def log_of(self, pod: str, since: str = "") -> Iterator[str]:
        """Follow the log of a node's container; each line begins with its time. Raises whatever ends it early."""
        query = {"container": NODE, "follow": "true", "timestamps": "true"}
        query |= {"sinceTime": since} if since else {}
        response = self._send("GET", self._core("pods", pod, "log"), query, None, stream=True)
        try:
            rest = b""
            for part in response.stream(amt=65536):
                *lines, rest = (rest + part).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")
        finally:
            response.release_conn()
            response.close()

    def job(self, name: str) -> dict[str, Any] | None:
        """Return a TrainJob; None if there is none."""
        try:
            return self.ask("GET", self._jobs(name))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def create(self, manifest: Mapping[str, Any], dry_run: bool = False) -> dict[str, Any]:
        """Create a TrainJob, or only let the server check it. Raises Refused (409 if there is one of this name)."""
        query = {"dryRun": "All"} if dry_run else {}
        return self.ask("POST", self._jobs(), query, manifest)

    def own(self, name: str, owners: list[dict[str, Any]], version: str) -> None:
        """Replace the owners of a TrainJob. Raises Refused, with 409 if it is no longer the version that was read."""
        change = {"metadata": {"ownerReferences": owners, "resourceVersion": version}}
        self.ask("PATCH", self._jobs(name), body=change)

    def delete(self, name: str, uid: str) -> None:
        """Delete a TrainJob with its pods, unless another one has its name by now; it may be gone already."""
        options = {
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground",
            "preconditions": {"uid": uid},
        }  # fmt: skip
        try:
            self.ask("DELETE", self._jobs(name), body=options)
        except Refused as refused:
            if refused.status not in (404, 409):
                raise

    def ask(self, method: str, path: str, query: Mapping[str, str] | None = None, body: Any = None) -> dict[str, Any]:
        """Send a request until it is answered and return the answer. Raises Refused, UserError, Outage."""
        return dict(json.loads(self.read(path, query, method, body) or "{}"))

    def read(self, path: str, query: Mapping[str, str] | None = None, method: str = "GET", body: Any = None) -> str:
        """Do the same and return the answer as text."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        began, tries, told = time.monotonic(), 0, False
        while True:
            try:
                response = self._send(method, path, query or {}, body)
                return str(response.data.decode("utf-8", "replace"))
            except ApiException as error:
                # A token that has just been replaced is refused for a moment.
                again = error.status in NO_ANSWER or (error.status == 401 and tries < 5)
                if not again:
                    raise _refusal(error, method, path) from None
                said, pause = _said(error), _asked_to_wait(error)
            except (HTTPError, OSError) as error:
                said, pause = f"{type(error).__name__}: {error}", 0.0
            if time.monotonic() - began > self._patience:
                raise _outage(masked(said), self._patience)
            if not told and tries >= 3:
                told = True
                log.info("the Kubernetes API does not answer, asking again: %s", masked(said)[:200])
            tries += 1
            most = min(LONGEST_WAIT, self._first_wait * 2.0 ** min(tries, 10))
            time.sleep(min(max(pause, random.uniform(most / 2, most)), self._patience))

    def _send(self, method: str, path: str, query: Mapping[str, str], body: Any, stream: bool = False) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        return self._client.call_api(
            path, method, query_params=list(query.items()), body=body, auth_settings=["BearerToken"],
            header_params={"Accept": "application/json, */*", "Content-Type": kind},
            _return_http_data_only=True, _preload_content=False,
            _request_timeout=(CONNECT, SILENCE if stream else ANSWER),
        )  # fmt: skip

    def _core(self, *path: str) -> str:
        return "/".join((f"/api/v1/namespaces/{self.namespace}", *path))

    def _jobs(self, *path: str) -> str:
        return "/".join((f"/apis/{GROUP}/{VERSION}/namespaces/{self.namespace}/{PLURAL}", *path))


def in_cluster(patience: float, first_wait: float) -> tuple[Api, str]:
    """Return the API of the cluster that this pod is in, and the pod's name. Raises UserError outside of one."""
    from kubernetes import client, config

    configuration = client.Configuration()
    name = os.environ.get(POD_NAME, "")
    namespace = os.environ.get(NAMESPACE) or _own_namespace()
    try:
        config.load_incluster_config(configuration)
    except config.ConfigException as error:
        raise _outside(str(error)) from None
    if not name or not namespace:
        raise _outside(f"no {POD_NAME}" if namespace else f"no {NAMESPACE_FILE}")
    return Api(client.ApiClient(configuration), namespace, patience, first_wait), name


def _own_namespace() -> str:
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def rank_of(pod: Mapping[str, Any]) -> int:
    """Return the number of the node that a pod is; a large one if it tells none."""
    metadata = pod["metadata"]
    for where in ("labels", "annotations"):
        if number := (metadata.get(where) or {}).get("batch.kubernetes.io/job-completion-index"):
            return int(number)
    return 1_000_000


def words_of(refused: Refused) -> str:
    """Return the API's own words, on one line, without an admission webhook's preface."""
    text = " ".join(refused.message.split())
    return masked(text.split("denied the request: ", 1)[-1])[:600] or refused.reason


def _refusal(error: Any, method: str, path: str) -> Exception:
    refused = Refused(error.status, _message(error), str(error.reason))
    webhook = "denied the request" in refused.message or "exceeded quota" in refused.message
    if error.status == 401 or (error.status == 403 and not webhook):
        what = "pods/log" if path.endswith("/log") else next(
            (name for name in RIGHTS if f"/{name}" in path), path.rsplit("/", 1)[-1])  # fmt: skip
        return _no_right(what, refused, method)
    return refused


def _no_right(what: str, refused: Refused, method: str) -> StepError:
    return UserError(
        Problem("NODES-E0202", f"{method} {what}", f"{refused.status} {words_of(refused)}",
                f"a service account that may {RIGHTS.get(what, 'do this')} {what} in its namespace",
                "apply the role finetune-trainjobs of docs/install.yaml for the service account of the run")
    )  # fmt: skip


def _outage(said: str, patience: float) -> Outage:
    return Outage(
        Problem("NODES-E0401", "the Kubernetes API", f"no answer for {patience / 60:.0f} minutes: {said[:300]}",
                "an answer", "run again: a training that goes on is followed again")
    )  # fmt: skip


def _outside(found: str) -> UserError:
    return UserError(
        Problem("NODES-E0203", "num_nodes_finetune", f"a process outside of a cluster ({found})",
                "a task of KFP for several nodes", "use one node, and nproc_per_node_finetune for several processes")
    )  # fmt: skip


def _message(error: Any) -> str:
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.strip()


def _said(error: Any) -> str:
    return " ".join(f"{error.status} {error.reason}: {_message(error)}".split())


def _asked_to_wait(error: Any) -> float:
    try:
        return min(float((error.headers or {}).get("Retry-After", 0)), LONGEST_WAIT)
    except ValueError:
        return 0.0
