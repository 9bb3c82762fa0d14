"""A server with the part of MLflow's REST protocol that a training uses; it can be switched off."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class TrackingServer:
    """`down` answers everything with 503; `deaf` opens a run that it is asked for and answers 503."""

    def __init__(self, artifacts: Path):
        self.artifacts = artifacts
        self.down = self.deaf = False
        self.refuse = ""
        """A metric's name that is refused as MLflow refuses a bad value."""
        self.runs: dict[str, dict] = {}
        self.asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def metrics(self, name: str) -> list[tuple[int, float]]:
        """Every value of a metric that was taken, as (step, value), doubles left out as MLflow's database does."""
        run = next(iter(self.runs.values()))
        taken = {(m["step"], m["value"], m["timestamp"]) for m in run["metrics"] if m["key"] == name}
        return [(int(step), value) for step, value, _ in sorted(taken, key=lambda one: int(one[0]))]

    def answer(self, path: str, given: dict) -> dict | None:
        name = path.partition("/mlflow/")[2]
        if name == "experiments/get-by-name":
            return {"experiment": {"experiment_id": "1", "name": given["experiment_name"], "lifecycle_stage": "active",
                                   "artifact_location": str(self.artifacts)}}  # fmt: skip
        if name == "runs/create":
            run_id = f"{len(self.runs) + 1:032x}"
            self.runs[run_id] = {"info": given, "metrics": [], "params": {}, "status": "RUNNING"}
            return {"run": self._run(run_id)}
        if name == "runs/search":
            key = given["filter"].split("'")[1]
            found = [one for one, run in self.runs.items() if any(tag["value"] == key for tag in run["info"]["tags"])]
            return {"runs": [self._run(one) for one in found]}
        if name == "runs/get":
            return {"run": self._run(given["run_id"])}
        if name == "runs/log-batch":
            run = self.runs[given["run_id"]]
            run["metrics"] += given.get("metrics", [])
            run["info"]["tags"] = [*run["info"].get("tags", []), *given.get("tags", [])]
            run["params"] |= {one["key"]: one["value"] for one in given.get("params", [])}
            return {}
        if name == "runs/update":
            self.runs[given["run_id"]]["status"] = given["status"]
            return {"run_info": self._run(given["run_id"])["info"]}
        return None

    def _run(self, run_id: str) -> dict:
        info = {"run_id": run_id, "run_uuid": run_id, "experiment_id": "1", "status": self.runs[run_id]["status"],
                "artifact_uri": str(self.artifacts / run_id), "lifecycle_stage": "active"}  # fmt: skip
        return {"info": info, "data": {"tags": self.runs[run_id]["info"].get("tags", [])}}


def _handler(server: TrackingServer) -> type:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            self._reply(parts.path, {key: values[0] for key, values in parse_qs(parts.query).items()})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._reply(self.path, json.loads(body))

        def _reply(self, path: str, given: dict) -> None:
            server.asked += 1
            if server.down:
                return self._write(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "down"})
            if server.refuse and any(one["key"] == server.refuse for one in given.get("metrics", [])):
                return self._write(400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "no such number"})
            answer = server.answer(path, given)
            if server.deaf and path.endswith("runs/create"):
                return self._write(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "lost"})
            return self._write(404 if answer is None else 200, answer or {})

        def _write(self, code: int, answer: dict) -> None:
            body = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
