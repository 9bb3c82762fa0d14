"""A Kubernetes API with the TrainJobs of Kubeflow Trainer: objects by path, admission, owners, logs, and every request.

A test sets what happens: `behave` is called with a job whenever it is read, and changes its status and its pods;
`fault` answers a request in the server's place. The rules of admission are those of `trainer_schema.py`.
"""

import copy
import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from trainer_schema import faults

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainjobs"
CORE = "/api/v1/namespaces/team"
RESET, LOSE = "reset", "lose"  # end the connection before, or after, the server did what it was asked for
IMMUTABLE = ("runtimeRef", "trainer", "activeDeadlineSeconds", "managedBy", "initializer")


class Request(NamedTuple):
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    body: Any

    @property
    def verb(self) -> tuple[str, str]:
        """Resource and verb, as a role has them."""
        parts = self.path.split("/namespaces/team/")[1].split("/")
        resource = "pods/log" if parts[-1] == "log" else parts[0]
        plain = {"POST": "create", "DELETE": "delete", "PATCH": "patch"}
        read = "watch" if "watch" in self.query else "get" if len(parts) > 1 else "list"
        return resource, plain.get(self.method, read)


class TrainerServer:
    """The server, its objects and what was asked of it."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, dict[str, Any]] = {}
        self.logs: dict[str, list[str]] = {}
        """Name of a pod → lines with their time in front; a pod that runs gets more."""
        self.events: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.made: list[dict[str, Any]] = []
        """Every TrainJob that was created."""
        self.most_active = 0
        """The most TrainJobs that had not ended, at one time."""
        self.behave: Callable[[dict[str, Any], int], None] = lambda job, look: None
        self.fault: Callable[[Request], Any] = lambda request: None
        self.installed = True
        self.before_2_2 = False
        self.leaving = 0
        """Reads of a deleted job before it is gone."""
        self._looks: dict[str, int] = {}
        self._version = 0
        self.lock = threading.RLock()
        self.http = _Server(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def verbs(self) -> set[tuple[str, str]]:
        """Return the rights that the requests needed."""
        return {request.verb for request in self.requests}

    def asked(self, method: str, ending: str = "") -> list[Request]:
        return [one for one in self.requests if one.method == method and one.path.endswith(ending)]

    @property
    def active(self) -> list[str]:
        return [name for name, job in self.jobs.items() if not ended(job)]

    def add_pod(self, pod: dict[str, Any]) -> dict[str, Any]:
        """Store a pod as a scheduler and a node would leave it."""
        metadata = {"uid": str(uuid.uuid4()), "namespace": "team", "creationTimestamp": now(), **pod["metadata"]}
        self.pods[metadata["name"]] = {"apiVersion": "v1", "kind": "Pod", **pod, "metadata": metadata}
        return self.pods[metadata["name"]]

    def delete_pod(self, name: str) -> None:
        """Delete a pod, and what has no owner any more."""
        with self.lock:
            self.pods.pop(name, None)
            self.collect()

    def collect(self) -> None:
        """Delete jobs of which every owner is gone, as Kubernetes' garbage collection does; Workflows stay."""
        there = {pod["metadata"]["uid"] for pod in self.pods.values()}
        for name, job in list(self.jobs.items()):
            owners = job["metadata"].get("ownerReferences") or []
            if owners and all(one["kind"] == "Pod" and one["uid"] not in there for one in owners):
                self._drop(name)

    def _drop(self, name: str) -> None:
        self.jobs.pop(name, None)
        for pod in [one for one in self.pods.values() if labels(one).get("jobset.sigs.k8s.io/jobset-name") == name]:
            del self.pods[pod["metadata"]["name"]]

    def answer(self, request: Request) -> tuple[int, Any]:
        """Return status and body."""
        if request.path.startswith(JOBS):
            if not self.installed:
                return 404, "404 page not found\n"
            return self._of_jobs(request, request.path.removeprefix(JOBS).strip("/"))
        kind, _, name = request.path.removeprefix(f"{CORE}/").partition("/")
        if kind == "pods" and name:
            return (200, self.pods[name]) if name in self.pods else missing("pods", name)
        if kind == "pods":
            return 200, listed("Pod", [pod for pod in self.pods.values() if selects(request, pod)])
        field = request.query.get("fieldSelector", "").removeprefix("involvedObject.name=")
        return 200, listed("Event", [one for one in self.events if one["involvedObject"]["name"] == field])

    def _of_jobs(self, request: Request, name: str) -> tuple[int, Any]:
        if request.method == "POST":
            return self._create(request.body, "dryRun" in request.query)
        if not name:
            return 200, listed("TrainJob", [job for job in self.jobs.values() if selects(request, job)])
        if name not in self.jobs:
            return missing("trainjobs.trainer.kubeflow.org", name)
        job = self.jobs[name]
        if request.method == "DELETE":
            wanted = (request.body or {}).get("preconditions", {}).get("uid")
            if wanted and wanted != job["metadata"]["uid"]:
                return failure(409, "Conflict", "the UID in the precondition does not match")
            job["metadata"]["deletionTimestamp"] = now()
            self._looks[f"{name} leaves"] = self.leaving
            self._leave(name)
            return 200, {"kind": "Status", "status": "Success"}
        if request.method == "PATCH":
            return self._patch(job, request.body)
        if "deletionTimestamp" in job["metadata"]:
            told = copy.deepcopy(job)
            self._looks[f"{name} leaves"] -= 1
            self._leave(name)
            return 200, told
        uid = job["metadata"]["uid"]
        self._looks[uid] = self._looks.get(uid, 0) + 1
        self.behave(job, self._looks[uid])
        if name not in self.jobs:
            return missing("trainjobs.trainer.kubeflow.org", name)
        return 200, job

    def _leave(self, name: str) -> None:
        if self._looks[f"{name} leaves"] <= 0:
            self._drop(name)

    def _create(self, body: dict[str, Any], dry_run: bool) -> tuple[int, Any]:
        job = copy.deepcopy(body)
        name = job["metadata"]["name"]
        if self.before_2_2:  # a server drops what the definition does not know
            job["spec"].pop("runtimePatches", None)
            job["spec"].pop("activeDeadlineSeconds", None)
        if found := faults(job):
            return failure(422, "Invalid", f'TrainJob.trainer.kubeflow.org "{name}" is invalid: {"; ".join(found)}')
        if name in self.jobs:
            return failure(409, "AlreadyExists", f'trainjobs.trainer.kubeflow.org "{name}" already exists')
        job["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "resourceVersion": self._next()}
        job["spec"] |= {"suspend": False, "managedBy": "trainer.kubeflow.org/trainjob-controller"}
        if not dry_run:
            self.jobs[name] = job
            self.made.append(copy.deepcopy(job))
            self.most_active = max(self.most_active, len(self.active))
        return 201, job

    def _patch(self, job: dict[str, Any], body: dict[str, Any]) -> tuple[int, Any]:
        version = body.get("metadata", {}).get("resourceVersion")
        if version and version != job["metadata"]["resourceVersion"]:
            return failure(409, "Conflict", "the object has been modified")
        if any(key in body.get("spec", {}) for key in IMMUTABLE):
            return failure(422, "Invalid", "field is immutable")
        job["metadata"] |= {**body.get("metadata", {}), "resourceVersion": self._next()}
        return 200, job

    def _next(self) -> str:
        self._version += 1
        return str(self._version)

    def lines(self, name: str, query: dict[str, str]) -> Iterator[str]:
        """Yield the log of a pod, and with `follow` what comes until the pod has ended."""
        sent = 0
        given = self.logs.get(name, [])
        since, tail = query.get("sinceTime", "")[:19], query.get("tailLines")
        if tail:
            given = given[-int(tail) :]
        while True:
            with self.lock:
                more = given[sent:]
                phase = (self.pods.get(name, {}).get("status") or {}).get("phase", "Failed")
            sent += len(more)
            for line in more:
                if line[:19] >= since:
                    yield line if "timestamps" in query else line.split(" ", 1)[1]
            if "follow" not in query or (phase in ("Succeeded", "Failed") and sent >= len(given)):
                return
            time.sleep(0.005)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""


def _handler(server: TrainerServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _handle(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            request = Request(self.command, parts.path, query, body)
            with server.lock:
                server.requests.append(request)
                fault = server.fault(request)
            if fault == RESET:
                return self._reset()
            if isinstance(fault, tuple):
                return self._send(*fault)
            if parts.path.endswith("/log"):
                return self._log(parts.path.split("/")[-2], query, fault)
            with server.lock:
                status, made = server.answer(request)
                data = made if isinstance(made, str) else json.dumps(made)
            if fault == LOSE:
                return self._reset()
            return self._send(status, data)

        do_GET = do_POST = do_DELETE = do_PATCH = _handle

        def _send(self, status: int, data: str, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data.encode())))
            self.end_headers()
            self.wfile.write(data.encode())

        def _log(self, name: str, query: dict[str, str], cut_after: int | None) -> None:
            if name not in server.pods:
                return self._send(*texts(missing("pods", name)))
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for number, line in enumerate(server.lines(name, query)):
                if cut_after is not None and number >= cut_after:
                    return self._reset()
                data = f"{line}\n".encode()
                self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            return None

        def _reset(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def ended(job: dict[str, Any]) -> bool:
    """Tell if a job is complete or has failed."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in conditions)


def end(job: dict[str, Any], kind: str = "Complete", reason: str = "AllJobsCompleted", message: str = "done") -> None:
    """Set the condition with which a job ends."""
    condition(job, kind, "True", reason, message)


def condition(job: dict[str, Any], kind: str, status: str, reason: str = "", message: str = "") -> None:
    """Set a condition."""
    kept = [one for one in job.setdefault("status", {}).get("conditions", []) if one["type"] != kind]
    new = {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now()}
    job["status"]["conditions"] = [*kept, new]


def node(job: str, rank: int, phase: str = "Running", name: str = "", **status: Any) -> dict[str, Any]:
    """Return a pod of a node of a job."""
    return {
        "metadata": {
            "name": name or f"{job}-node-0-{rank}-abcde",
            "labels": {
                "jobset.sigs.k8s.io/jobset-name": job,
                "jobset.sigs.k8s.io/replicatedjob-name": "node",
                "batch.kubernetes.io/job-completion-index": str(rank),
            },
        },
        "spec": {"containers": [{"name": "node"}]},
        "status": {"phase": phase, **status},
    }


def terminated(code: int, reason: str = "Error", message: str = "", at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    """Return the status of a pod whose container ended."""
    over = {"exitCode": code, "reason": reason, "message": message, "finishedAt": at}
    return {"containerStatuses": [{"name": "node", "state": {"terminated": over}, "lastState": {}, "restartCount": 0}]}


def labels(one: dict[str, Any]) -> dict[str, str]:
    return one["metadata"].get("labels") or {}


def selects(request: Request, one: dict[str, Any]) -> bool:
    """Tell if the labelSelector of a request selects an object: equality only."""
    wanted = [part.split("=", 1) for part in request.query.get("labelSelector", "").split(",") if part]
    return all(labels(one).get(key) == value for key, value in wanted)


def listed(kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": f"{kind}List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}


def failure(status: int, reason: str, message: str) -> tuple[int, dict[str, Any]]:
    """Return a refusal as the API words it."""
    return status, {"kind": "Status", "status": "Failure", "reason": reason, "message": message, "code": status}


def missing(resource: str, name: str) -> tuple[int, dict[str, Any]]:
    return failure(404, "NotFound", f'{resource} "{name}" not found')


def texts(answer: tuple[int, Any]) -> tuple[int, str]:
    """Return an answer with its body as text, for `fault`."""
    return answer[0], json.dumps(answer[1])


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
