"""A stand-in for the Hugging Face Hub: repositories in memory, by the paths that huggingface_hub 1.x asks for."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
LARGE = 1000  # bytes: larger files have the sha256 of their content as etag, as those in LFS


def blob_of(content: bytes) -> str:
    """The etag of a file: git's, or the sha256 of a large one."""
    if len(content) > LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def hub_stand_in(repositories: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """Serve repositories, {"org/name": {file: content}}, as models and as data sets; yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if found := re.match(r"/api/(?:models|datasets)/([^/]+/[^/]+)(?:/(\w[\w-]*)/[^/]+(?:/(.*))?)?$", path):
                self._describe(repositories.get(found[1]), found[2] or "revision", found[1], found[3] or "")
            elif found := re.match(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/[^/]+/(.*)$", path):
                self._file(repositories.get(found[1], {}).get(found[2]))
            else:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_POST = do_GET

        def _describe(self, files: dict[str, bytes] | None, what: str, name: str, below: str) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            entries = [_entry(path, content) for path, content in (files or {}).items() if path.startswith(below)]
            if what == "tree":
                told: object = entries
            elif what == "paths-info":
                told = [one for one in entries if str(one["path"]) in unquote(asked)]
            else:
                siblings = [{"rfilename": one["path"], "size": one["size"], "blobId": one["oid"]} for one in entries]
                told = {"id": name, "sha": COMMIT, "siblings": siblings}
            if files is None:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            else:
                self._send(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

        def _file(self, content: bytes | None) -> None:
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            headers = {"ETag": f'"{blob_of(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if found := re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", "")):
                first, last = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                self._send(206, content[first : last + 1], headers)
            else:
                self._send(200, content, headers)

        def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _entry(path: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": blob_of(content)}
    if len(content) > LARGE:
        entry["lfs"] = {"oid": blob_of(content), "size": len(content), "pointerSize": 130}
    return entry
