"""A Kubeflow Pipelines API server of 2.17, as far as clients see it: paths, bodies, and the rules for types.

It checks the parameters of a run against the inputs of the uploaded version as the backend does
(backend/src/apiserver/template/v2_template.go): a name that is unknown, a JSON type that does not fit, a value that is
not among the `literals`. Numbers are not told apart: 8.5 passes for a whole number, as in the backend.
"""

import email
import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

JSON_TYPES = {
    "STRING": str,
    "NUMBER_INTEGER": (int, float),
    "NUMBER_DOUBLE": (int, float),
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class KfpServer:
    """The server, what it holds, and what it was asked."""

    def __init__(self) -> None:
        self.pipelines: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, dict[str, Any]] = {}
        self.specs: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.progress: list[dict[str, Any]] = []
        """What a run looks like at each look: the last one stays."""
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        """Method, path, headers and body of every request."""
        self.fail: dict[str, tuple[int, Any, dict[str, str]]] = {}
        """Beginning of "METHOD path" → status, body and headers of the answer."""
        self.logs: dict[str, str] = {}
        """Log by name of pod."""
        self.multi_user = False
        self.token = ""
        self.clock = datetime(2026, 1, 1, 6, tzinfo=UTC)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                server._answer(self)

            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def url(self) -> str:
        scheme = "https" if hasattr(self.http.socket, "context") else "http"
        return f"{scheme}://127.0.0.1:{self.http.server_address[1]}"

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def asked(self, start: str) -> list[Any]:
        """Return the bodies of the requests whose "METHOD path" begins with a text."""
        return [body for method, path, _, body in self.requests if f"{method} {path}".startswith(start)]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        raw = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        kind = request.headers.get("Content-Type", "")
        body = _file(kind, raw) if "multipart" in kind else json.loads(raw or b"null")
        path = parts.path.removeprefix("/apis/v2beta1/").removeprefix("/apis/v1alpha1/")
        self.requests.append((request.command, path, dict(request.headers), {"query": query, "body": body}))
        headers: dict[str, str] = {}
        try:
            for start, (status, told, more) in self.fail.items():
                if f"{request.command} {path}".startswith(start):
                    headers = more
                    raise Refused(status, told)
            if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
                raise Refused(401, "Request header error: there is no user identity header.")
            status, answer = 200, self._handle(request.command, path.split("/"), query, body)
        except Refused as refused:
            told = refused.args[0]
            status = refused.status
            answer = told if isinstance(told, bytes) else {"error": told, "code": 3, "message": told, "details": []}
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)

    def _handle(self, method: str, words: list[str], query: dict[str, str], body: Any) -> Any:
        match method, words:
            case "GET", ["healthz"]:
                return {"multi_user": self.multi_user}
            case "GET", ["pipelines"]:
                return {"pipelines": self._listed(self.pipelines, query)}
            case "POST", ["pipelines"]:
                return self._made(self.pipelines, "pipeline_id", body)
            case "POST", ["pipelines", "upload"]:
                pipeline = self._made(self.pipelines, "pipeline_id", query)
                self._upload({**query, "pipelineid": pipeline["pipeline_id"]}, body)
                return pipeline
            case "POST", ["pipelines", "upload_version"]:
                return self._upload(query, body)
            case "GET", ["pipelines", pipeline, "versions"]:
                mine = {key: one for key, one in self.versions.items() if one["pipeline_id"] == pipeline}
                return {"pipeline_versions": self._listed(mine, query)}
            case "GET", ["experiments"]:
                return {"experiments": self._listed(self.experiments, query)}
            case "POST", ["experiments"]:
                return self._made(self.experiments, "experiment_id", body)
            case "POST", ["runs"]:
                self._check(body)
                return self._made(self.runs, "run_id", {**body, "state": "PENDING"})
            case "GET", ["runs"]:
                named = self._matching(self._in(self.runs, query), query)
                return self._paged("runs", [dict(run) for run in reversed(named)], query)
            case "POST", ["runs", place] if place.endswith(":terminate"):
                self._found(self.runs, place.removesuffix(":terminate"))["state"] = "CANCELED"
                return {}
            case "GET", ["runs", run, "nodes", pod, "log"]:
                self._found(self.runs, run)
                if pod not in self.logs:
                    raise Refused(400, f"Failed to read logs for run {run}")
                return self.logs[pod].encode()
            case "GET", ["runs", run]:
                return self._looked_at(run)
            case "POST", ["recurringruns"]:
                self._check(body)
                enabled = body.get("mode") == "ENABLE"
                made = {**body, "status": "ENABLED" if enabled else "DISABLED"}
                return self._made(self.schedules, "recurring_run_id", made)
            case "GET", ["recurringruns"]:
                return self._paged("recurringRuns", self._in(self.schedules, query), query)
            case "POST", ["recurringruns", place]:
                name, _, verb = place.partition(":")
                self._found(self.schedules, name)["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
                return {}
            case "DELETE", ["recurringruns", name]:
                self._found(self.schedules, name)
                del self.schedules[name]
                return {}
        raise Refused(404, "Not Found")

    def _found(self, held: dict[str, dict[str, Any]], key: str) -> dict[str, Any]:
        if key not in held:
            raise Refused(404, f"ResourceNotFoundError: {key} not found.")
        return held[key]

    def _made(self, held: dict[str, dict[str, Any]], key: str, body: dict[str, Any]) -> dict[str, Any]:
        self.clock += timedelta(minutes=1)
        made = {**body, key: str(uuid.uuid4()), "created_at": self.clock.isoformat().replace("+00:00", "Z")}
        named = ("pipeline_id", "experiment_id")
        if key in named and any(one["display_name"] == made["display_name"] for one in held.values()):
            raise Refused(409, "Already exist error: a resource of this name exists.")
        held[made[key]] = made
        return made

    def _upload(self, query: dict[str, str], text: str) -> dict[str, Any]:
        pipeline = self._found(self.pipelines, query["pipelineid"])["pipeline_id"]
        spec = next(iter(yaml.load_all(text, yaml.CSafeLoader)))
        if spec.get("schemaVersion") != "2.1.0":
            raise Refused(400, "unknown schema version")
        made = {"pipeline_id": pipeline, "name": query["name"], "description": query.get("description", ""),
                "display_name": query.get("display_name", query["name"])}  # fmt: skip
        version = self._made(self.versions, "pipeline_version_id", made)
        self.specs[version["pipeline_version_id"]] = spec
        return version

    def _in(self, held: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        within = query.get("experiment_id")
        return [one for one in held.values() if not within or one.get("experiment_id") == within]

    def _listed(self, held: dict[str, dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        found = [one for one in held.values() if one.get("namespace", "") in ("", query.get("namespace", ""))]
        return self._matching(found, query)

    def _matching(self, found: list[dict[str, Any]], query: dict[str, str]) -> list[dict[str, Any]]:
        wanted = json.loads(query.get("filter") or "{}").get("predicates", [])
        return [one for one in found if all(one.get(rule["key"]) == rule["stringValue"] for rule in wanted)]

    def _paged(self, name: str, found: list[Any], query: dict[str, str]) -> dict[str, Any]:
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
        after = str(start + size) if start + size < len(found) else ""
        return {name: found[start : start + size], "next_page_token": after}

    def _looked_at(self, run: str) -> dict[str, Any]:
        made = self._found(self.runs, run)
        if self.progress:
            made.update(self.progress[0] if len(self.progress) == 1 else self.progress.pop(0))
        return made

    def _check(self, body: dict[str, Any]) -> None:
        reference = body.get("pipeline_version_reference")
        if reference:
            version = self._found(self.versions, reference["pipeline_version_id"])
            if version["pipeline_id"] != reference["pipeline_id"]:
                raise Refused(400, "the version belongs to another pipeline")
            spec = self.specs[reference["pipeline_version_id"]]
        else:
            spec = body["pipeline_spec"].get("pipeline_spec", body["pipeline_spec"])
        self._found(self.experiments, body["experiment_id"])
        inputs = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        given = (body.get("runtime_config") or {}).get("parameters") or {}
        refused = [words for name, value in given.items() if (words := refusal(name, value, inputs))]
        refused += [f"required input parameter {name} is missing" for name, made in inputs.items()
                    if name not in given and "defaultValue" not in made and not made.get("isOptional")]  # fmt: skip
        if refused:
            raise Refused(400, f"Failed to create a run: InvalidInputError: {'; '.join(refused)}")


def refusal(name: str, value: Any, inputs: dict[str, Any]) -> str:
    """Return why the backend refuses a value; empty if it does not."""
    if name not in inputs:
        return f"parameter {name} is not defined in the pipeline"
    wanted = inputs[name]["parameterType"]
    if not isinstance(value, JSON_TYPES[wanted]) or (isinstance(value, bool) and wanted != "BOOLEAN"):
        return f"input parameter {name} type mismatch: expect {wanted}, got {type(value).__name__}"
    literals = inputs[name].get("literals")
    if literals and value not in literals:
        return f"input parameter {name} value {value!r} is not one of {literals}"
    return ""


def _file(kind: str, raw: bytes) -> str:
    """Return the file of a form."""
    form: Any = email.message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + raw)
    part = next(part for part in form.walk() if part.get_param("name", header="content-disposition") == "uploadfile")
    return part.get_payload(decode=True).decode()


def tasks(run: str = "", **states: str) -> dict[str, Any]:
    """Return a run's look with these states of tasks; `run` is the state of the run."""
    names = {name.replace("_", "-"): state for name, state in states.items()}
    inner = {"root": "RUNNING", "root-driver": "SUCCEEDED", "executor": "RUNNING", "plan-driver": "SUCCEEDED"}
    details = [{"display_name": name, "state": state, "task_id": str(number), "pod_name": f"dates-{number}"}
               for number, (name, state) in enumerate({**inner, **names}.items())]  # fmt: skip
    return {"state": run or "RUNNING", "run_details": {"task_details": details}}
