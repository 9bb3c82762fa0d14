"""A Kubernetes API that lists pods, and the kubeconfig file that leads to it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


class KubernetesServer:
    """The server and its pods."""

    def __init__(self) -> None:
        self.pods: list[list[dict[str, Any]]] = [[]]
        """The pods at each look: the last list stays."""
        self.status = 200
        self.requests: list[tuple[str, dict[str, list[str]]]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                server.requests.append((parts.path, parse_qs(parts.query)))
                pods = server.pods[0] if len(server.pods) == 1 else server.pods.pop(0)
                answer = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}
                if server.status != 200:
                    answer = {"kind": "Status", "status": "Failure", "message": "forbidden", "code": server.status}
                data = json.dumps(answer).encode()
                self.send_response(server.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def kubeconfig(self, folder: Path) -> Path:
        """Write a kubeconfig file that leads here."""
        address = f"http://127.0.0.1:{self.http.server_address[1]}"
        file = folder / "kubeconfig"
        file.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": address}}], "users": [{"name": "me", "user": {}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        }))  # fmt: skip
        return file

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def pod(task: str, phase: str, conditions: Any = (), **containers: dict[str, Any]) -> dict[str, Any]:
    """Return a pod of a task; `containers` are states by name of container."""
    statuses = [
        {"name": name, "image": "registry/train:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        for name, state in containers.items()
    ]
    return {
        "metadata": {"name": f"dates-{task}", "annotations": {
            "workflows.argoproj.io/node-name": f"dates-abc.root.{task}.executor"}},
        "spec": {"containers": [{"name": "main", "image": "registry/train:1"}]},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": statuses},
    }  # fmt: skip


def unscheduled(task: str, words: str, reason: str = "Unschedulable") -> dict[str, Any]:
    """Return a pod that no node takes."""
    return pod(task, "Pending", [{"type": "PodScheduled", "status": "False", "reason": reason, "message": words}])


def waiting(task: str, reason: str, words: str) -> dict[str, Any]:
    """Return a pod whose main container waits."""
    return pod(task, "Pending", main={"waiting": {"reason": reason, "message": words}}, wait={"running": {}})


def ended(task: str, message: str, code: int = 1, reason: str = "Error") -> dict[str, Any]:
    """Return a pod whose main container failed with a termination message."""
    return pod(task, "Failed", main={"terminated": {"exitCode": code, "reason": reason, "message": message}},
               wait={"terminated": {"exitCode": 0, "reason": "Completed"}})  # fmt: skip
