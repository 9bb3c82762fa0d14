"""A small server of OpenAI's protocol in a process of its own, which fails as it is told: a stand-in for the network.

    python tests/answer_server.py FOLDER      reads FOLDER/plan.json, writes FOLDER/port and FOLDER/requests.jsonl

The plan: {"models": [...], "failures": [...], "always": {...}}. Each failure is used for one request for an answer, in
order; `always` for all after them. A failure has `status` with `headers` and `body`, or `reset`, `garbage` or
`seconds` (to wait before a good answer). With `everywhere`, the list of models fails as well.
"""

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL = "small"
KEY = "sk-right-key-of-the-test-0123456789"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: dict[str, Any]
    folder: Path
    lock = threading.Lock()
    running = 0

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        failure = self.plan.get("always") if self.plan.get("everywhere") else None
        models = self.plan.get("models", [{"id": MODEL, "owned_by": "us"}])
        if models is None:
            self.send(404, {"error": {"message": "no such path"}})
        elif not failure or not self.fail(failure):
            self.send(200, {"object": "list", "data": models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            Handler.running += 1
            self.note(body)
            failures = self.plan.get("failures", [])
            failure = failures.pop(0) if failures else self.plan.get("always")
        try:
            if not failure or not self.fail(failure):
                self.send(200, self.answer(body))
        finally:
            with self.lock:
                Handler.running -= 1

    def note(self, body: Any) -> None:
        line = {"time": time.time(), "path": self.path, "key": self.headers.get("Authorization"), "body": body,
                "running": Handler.running}  # fmt: skip
        with open(self.folder / "requests.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def fail(self, failure: dict[str, Any]) -> bool:
        if "seconds" in failure:
            time.sleep(failure["seconds"])
            return False
        if failure.get("reset"):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif "garbage" in failure:
            self.send_text(200, failure["garbage"])
        else:
            self.send(failure["status"], failure.get("body", {}), failure.get("headers", {}))
        return True

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        chat = "messages" in body
        asked = body["messages"][-1]["content"] if chat else body["prompt"]
        text = self.plan.get("text", "answer to {}").format(asked)
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.plan.get("finish_reason", "stop")}
        if chat:
            choice["message"] = self.plan.get("message", {"role": "assistant", "content": text})
            if body.get("logprobs"):
                choice["logprobs"] = {"content": [{"token": one, "logprob": -0.5} for one in text.split()]}
        else:
            choice["text"] = text
            if "logprobs" in body:
                choice["logprobs"] = {"token_logprobs": [-0.25] * len(text.split()), "tokens": text.split()}
        usage = {"prompt_tokens": len(asked.split()), "completion_tokens": len(text.split()), "total_tokens": 0}
        return {"id": "1", "object": "x", "created": 0, "model": body["model"], "choices": [choice], "usage": usage}

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.send_text(status, json.dumps(body), headers)

    def send_text(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class Served:
    """A running server, as tests see it."""

    def __init__(self, folder: Path, port: int):
        self.folder, self.url = folder, f"http://127.0.0.1:{port}/v1"

    def requests(self) -> list[dict[str, Any]]:
        """The requests for answers so far, in the order of their arrival."""
        file = self.folder / "requests.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@contextmanager
def served(folder: Path, **plan: Any) -> Iterator[Served]:
    """Run a server for the time of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    process = subprocess.Popen([sys.executable, "-S", __file__, str(folder)])
    try:
        until = time.monotonic() + 300
        while not (folder / "port").exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        yield Served(folder, int((folder / "port").read_text()))
    finally:
        process.kill()
        process.wait()


def main(folder: Path) -> None:
    Handler.plan, Handler.folder = json.loads((folder / "plan.json").read_text()), folder
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    (folder / "port.new").write_text(str(server.server_address[1]))
    (folder / "port.new").rename(folder / "port")
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
