"""An HTTP proxy that plays faults: between a client under test and a real server on this machine.

A test says which requests get which fault, by method, path and number; all others pass through byte for byte. Every
request is listed in `seen`, with the fault that was played and whether the bytes of the answer were changed by it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

FAULTS = {
    "503": "SlowDown without asking the server, as any three digits are an answer with that status",
    "truncate": "the true Content-Length, but the connection is closed after half of the body",
    "lie": "half of the body, and a Content-Length to match",
    "flip": "one bit of the body is another one",
    "stall": "half of the body, and nothing more for a while",
    "hang": "nothing for a while",
    "trickle": "the head, and of the body one byte now and then",
    "trickle head": "one byte now and then, from the first on",
    "reset": "the connection is reset before an answer",
    "reset body": "the connection is reset after half of the body",
    "lost": "the server does its work, and the connection is reset in place of its answer",
    "500post": "the server does its work, and 500 is answered in place of its answer",
    "garbage": "bytes that are no HTTP",
    "page": "200 with a page of somebody else, such as that of a network where one has to log in",
    "loop": "a redirect to the same address",
    "action": "the request passes after a function of the test was called",
}
ERROR = b"<?xml version='1.0'?><Error><Code>%s</Code><Message>please reduce your request rate</Message></Error>"
PAGE = b"<html><body>Please log in to this network.</body></html>"
CODES = {503: b"SlowDown", 403: b"AccessDenied", 401: b"AccessDenied", 404: b"NoSuchKey", 400: b"ExpiredToken"}


@dataclass(frozen=True)
class Fault:
    """A fault, and the requests that get it: the `first` to the `last` of those with this method and path."""

    kind: str
    path: str = ""
    """Regular expression, searched in the path with its query."""
    methods: tuple[str, ...] = ()
    """Empty: all."""
    first: int = 1
    last: int = 1_000_000
    seconds: float = 1.0
    """How long a stall or hang lasts, and between two bytes of a trickle."""
    action: Callable[[], object] | None = None


@dataclass
class Asked:
    """A request that was seen."""

    method: str
    path: str
    head: str
    fault: str = ""
    changed: bool = False
    """Whether other bytes were sent than the server gave."""


@dataclass
class FaultProxy:
    """A running proxy; `faults` may be set at any time."""

    upstream: str
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    seen: list[Asked] = field(default_factory=list)
    _counted: dict[int, int] = field(default_factory=dict)

    def play(self, *faults: Fault) -> None:
        """Play these faults from now on, and forget what was seen."""
        self.faults, self._counted, self.seen = list(faults), {}, []

    def count(self, method: str = "", path: str = "") -> int:
        """Return how many requests with this method and path were seen."""
        return sum(method in ("", one.method) and bool(re.search(path, one.path)) for one in list(self.seen))

    def fault_of(self, asked: Asked) -> Fault | None:
        """Return the fault that this request gets, which counts for all faults that could be meant."""
        found = None
        for number, fault in enumerate(self.faults):
            if (not fault.methods or asked.method in fault.methods) and re.search(fault.path, asked.path):
                self._counted[number] = self._counted.get(number, 0) + 1
                if found is None and fault.first <= self._counted[number] <= fault.last:
                    found = fault
        return found


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    """Run a proxy before the server at an address, in a thread of its own."""
    proxy = FaultProxy(upstream)
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def serve() -> None:
        server = await asyncio.start_server(lambda *streams: _Exchange(proxy, *streams).run(), "127.0.0.1", 0)
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        with suppress(asyncio.CancelledError):
            await server.serve_forever()

    def run() -> None:
        with suppress(asyncio.CancelledError):
            loop.run_until_complete(serve())

    thread = threading.Thread(target=run, name="fault proxy", daemon=True)
    thread.start()
    assert ready.wait(60)
    yield proxy
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
    thread.join(10)


@dataclass
class _Exchange:
    """One request of a client, with its answer."""

    proxy: FaultProxy
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def run(self) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            head = await self.reader.readuntil(b"\r\n\r\n")
            body = await self._body(head)
            method, path, _ = head.split(b"\r\n")[0].decode().split(" ", 2)
            asked = Asked(method, path, head.decode("latin-1"))
            fault = self.proxy.fault_of(asked)
            asked.fault = fault.kind if fault else ""
            self.proxy.seen.append(asked)
            if fault:
                await self._play(fault, asked, head, body)
            else:
                self.writer.write(b"".join(await self._ask(head, body)))
            await self.writer.drain()
        with suppress(Exception):
            self.writer.close()

    async def _body(self, head: bytes) -> bytes:
        if re.search(rb"\r\nexpect: *100-continue", head, re.IGNORECASE):
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if found := re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE):
            return await self.reader.readexactly(int(found[1]))
        body = b""
        if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
            while not body.endswith(b"0\r\n\r\n"):
                body += await self.reader.readuntil(b"\r\n")
        return body

    async def _ask(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Return head and body of the server's answer; the connection ends with it."""
        place = urlsplit(self.proxy.upstream)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        head = re.sub(rb"\r\n(connection|expect):[^\r]*", b"", head, flags=re.IGNORECASE)
        writer.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        first, _, rest = answer.partition(b"\r\n\r\n")
        if b" 100 " in first.split(b"\r\n")[0]:
            first, _, rest = rest.partition(b"\r\n\r\n")
        first = re.sub(rb"\r\n(connection|keep-alive):[^\r]*", b"", first, flags=re.IGNORECASE)
        return first + b"\r\nConnection: close\r\n\r\n", rest

    async def _play(self, fault: Fault, asked: Asked, request: bytes, sent: bytes) -> None:
        kind, send = fault.kind, self.writer.write
        asked.changed = True
        if kind.isdigit():
            send(_answer(int(kind), ERROR % CODES.get(int(kind), b"Error"), asked))
        elif kind == "page":
            send(_answer(200, PAGE, asked, b"Content-Type: text/html\r\n"))
        elif kind == "loop":
            send(_answer(302, b"", asked, b"Location: %s%s\r\n" % (self.proxy.url.encode(), asked.path.encode())))
        elif kind == "garbage":
            send(bytes(range(256)))
        elif kind == "reset":
            self._reset()
        elif kind == "hang":
            await asyncio.sleep(fault.seconds)
        elif kind == "action":
            asked.changed = False
            await asyncio.get_running_loop().run_in_executor(None, fault.action or bool)
            send(b"".join(await self._ask(request, sent)))
        else:
            head, body = await self._ask(request, sent)
            await self._spoil(fault, asked, head, body)

    async def _spoil(self, fault: Fault, asked: Asked, head: bytes, body: bytes) -> None:
        """Send the answer of the server, or what became of it on the way."""
        kind, send, half = fault.kind, self.writer.write, body[: len(body) // 2]
        if kind == "500post":
            send(_answer(500, ERROR % b"InternalError", asked))
        elif kind == "lost":
            self._reset()
        elif kind == "lie":
            asked.changed = half != body
            send(re.sub(rb"(content-length: *)\d+", rb"\g<1>%d" % len(half), head, flags=re.IGNORECASE) + half)
        elif kind == "flip":
            asked.changed = bool(body)
            send(head + half + bytes([body[len(half)] ^ 1]) + body[len(half) + 1 :] if body else head)
        elif kind in ("truncate", "reset body"):
            asked.changed = half != body
            send(head + half)
            await self.writer.drain()
            if kind == "reset body":
                await asyncio.sleep(0.05)  # what was sent would be thrown away with the connection
                self._reset()
        elif kind == "stall":
            send(head + half)
            await asyncio.sleep(fault.seconds)
            send(body[len(half) :])
        else:
            await self._trickle(fault, *((head, body) if kind == "trickle" and body else (b"", head + body)))

    async def _trickle(self, fault: Fault, at_once: bytes, slowly: bytes) -> None:
        self.writer.write(at_once)
        for start in range(len(slowly)):
            self.writer.write(slowly[start : start + 1])
            await self.writer.drain()
            await asyncio.sleep(fault.seconds)

    def _reset(self) -> None:
        found = self.writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _answer(status: int, body: bytes, asked: Asked, more: bytes = b"Content-Type: application/xml\r\n") -> bytes:
    head = b"HTTP/1.1 %d Told\r\n%sContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, more, len(body))
    return head if asked.method == "HEAD" else head + body
