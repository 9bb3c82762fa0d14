"""How the nodes of a training know of each other where torchrun does not start them: who is there, and who has gone.

Node 0 listens at the address that Kubeflow Trainer tells all nodes; each other node keeps a connection to it, over
which lines of JSON go. A connection ends with the process or the machine behind it, so that both sides know at once
that the other one has gone, and which node it was. A secret from the folder of the training keeps others out.

    node → node 0    {"node": 1, "name": "pod-1", "secret": "…"}    once
                     {"joined": true}, {"stop": true} or {"error": "…"}
    node 0 → node    {"ended": 143}    when the training has ended, with its exit code
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from steps.errors import Outage, Problem, StepError
from steps.launch.several_processes import Node
from steps.launch.told import as_text, from_text

# Variable with the seconds in which all nodes have to be there. A large image may take that long on a new machine.
WAIT = "FINETUNE_NODES_SECONDS"
USUAL_WAIT = 1800.0
LOST = "NODES-E0406"  # a node that has gone; its pod may tell why
NEXT_TRY = 1.0  # seconds
LONGEST_LINE = 1 << 20  # characters; a stranger may send lines without an end
SEEN_WITHIN = 40.0  # seconds in which a machine that vanished is noticed
KEPT_ALIVE = (
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
)
Look = Callable[[], None]


def wait_seconds() -> float:
    """Return the seconds in which all nodes have to be there."""
    return float(os.environ.get(WAIT) or USUAL_WAIT)


def lost(rank: int, name: str) -> Outage:
    """Return the error of a node that has gone while the others went on."""
    return Outage(
        Problem(LOST, f"node {rank} ({name})", "a connection that ended: the node has gone",
                "all nodes until the end", "run again with resume_from_checkpoint=true: it goes on at its newest "
                "checkpoint", why="its machine or its pod ended, such as by a preemption"),
        transient=False,
    )  # fmt: skip


@dataclass
class Guest:
    """Another node, as node 0 sees it."""

    name: str
    connection: Connection
    joined: bool = False
    gone: bool = False
    error: StepError | None = None
    """Why it cannot take part."""


class Meeting:
    """The other nodes, for node 0; `on_stop` is called when one of them was asked to stop."""

    def __init__(self, node: Node, secret: str, on_stop: Look = lambda: None):
        self.node = node
        self.secret = secret
        self.on_stop = on_stop
        self.guests: dict[int, Guest] = {}
        self._change = threading.Condition()
        self._listening: socket.socket | None = None

    def open(self) -> None:
        """Let the other nodes connect from now on."""
        family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
        self._listening = socket.create_server(
            ("", self.node.port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=self.node.count
        )
        threading.Thread(target=self._accept, args=(self._listening,), name="nodes", daemon=True).start()

    def wait_for_all(self, seconds: float, look: Look) -> None:
        """Return when all nodes have joined; `look` is called meanwhile, and may raise.

        Raises Outage with the nodes that are missing after `seconds`, and as `look`.
        """
        until = time.monotonic() + seconds
        while missing := list(self._missing()):
            look()
            self.look()
            if time.monotonic() >= until:
                raise self._incomplete(missing, seconds)
            with self._change:
                self._change.wait(0.2)

    def look(self) -> None:
        """Raise the error of a node that failed, or Outage if one has gone."""
        with self._change:
            guests = sorted(self.guests.items())
        for rank, guest in sorted(guests, key=lambda one: one[1].error is None):
            if guest.error:
                raise guest.error
            if guest.gone:
                raise lost(rank, guest.name)

    def look_closely(self) -> None:
        """Do the same after a failure that may follow from a loss, which a machine that vanished tells late."""
        until = time.monotonic() + SEEN_WITHIN
        while time.monotonic() < until:
            self.look()
            time.sleep(0.2)

    def end(self, code: int) -> None:
        """Tell all nodes that the training has ended, with its exit code."""
        self.on_stop = lambda: None
        if self._listening:
            with suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)  # which wakes the thread that accepts
            self._listening.close()
        with self._change:
            guests = list(self.guests.values())
        for guest in guests:
            guest.connection.send({"ended": code})

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection = Connection(listening.accept()[0])
            except OSError:  # it was closed
                return
            threading.Thread(target=self._follow, args=(connection,), name="node", daemon=True).start()

    def _follow(self, connection: Connection) -> None:
        """Take what a node says until its connection ends; others than nodes of this training are left at once."""
        said = connection.said()
        hello = next(said, {})
        guest = Guest(str(hello.get("name", "")), connection)
        known = hmac.compare_digest(str(hello.get("secret", "")).encode("utf-8", "replace"), self.secret.encode())
        if not known or not self._is_new(hello.get("node"), guest):
            connection.close()
            return
        for told in said:
            self._hear(guest, told)
        self._note(lambda: setattr(guest, "gone", True))

    def _is_new(self, rank: Any, guest: Guest) -> bool:
        """Note a node of this training that was not there yet; return whether it is one."""
        with self._change:
            if type(rank) is not int or rank not in range(1, self.node.count) or rank in self.guests:
                return False
            self.guests[rank] = guest
            self._change.notify_all()
        return True

    def _hear(self, guest: Guest, told: dict[str, Any]) -> None:
        if told.get("joined"):
            self._note(lambda: setattr(guest, "joined", True))
        if told.get("stop"):
            self.on_stop()
        if told.get("error"):
            error = from_text(told["error"])
            self._note(lambda: setattr(guest, "error", error))

    def _note(self, change: Callable[[], None]) -> None:
        with self._change:
            change()
            self._change.notify_all()

    def _missing(self) -> Iterator[str]:
        for rank in range(1, self.node.count):
            guest = self.guests.get(rank)
            if guest is None:
                yield f"node {rank} has not come"
            elif not guest.joined:
                yield f"node {rank} ({guest.name}) is there and has not joined"

    def _incomplete(self, missing: list[str], seconds: float) -> Outage:
        count = self.node.count
        return Outage(
            Problem("NODES-E0405", f"{count} nodes", f"{count - len(missing)} after {seconds:.0f} s: "
                    f"{'; '.join(missing)}", f"all {count}", "look what its pod waits for (kubectl describe pod), let "
                    f"all start together (kueue_queue_finetune), or raise {WAIT}, and run again"),
            transient=False,
        )  # fmt: skip


class Member:
    """Node 0, for another node."""

    def __init__(self, node: Node, secret: str):
        self.node = node
        self.secret = secret
        self.code: int | None = None
        self._connection: Connection | None = None
        self._gone = threading.Event()

    def connect(self, seconds: float, look: Look = lambda: None) -> None:
        """Connect to node 0 as soon as it listens. Raises Outage if it does not within `seconds`."""
        until = time.monotonic() + seconds
        while True:
            look()
            try:
                found = socket.create_connection((self.node.address, self.node.port), timeout=10)
                break
            except OSError as error:
                if time.monotonic() >= until:
                    raise self._no_answer(seconds, error) from None
                time.sleep(NEXT_TRY)
        self._connection = Connection(found)
        self._tell({"node": self.node.rank, "name": socket.gethostname(), "secret": self.secret})
        threading.Thread(target=self._follow, args=(self._connection,), name="node 0", daemon=True).start()

    @property
    def is_connected(self) -> bool:
        """Whether node 0 was found; it may have gone since."""
        return self._connection is not None

    def joined(self) -> None:
        """Tell that this node takes part."""
        self._tell({"joined": True})

    def stop(self) -> None:
        """Tell that this node was asked to stop."""
        self._tell({"stop": True})

    def failed(self, error: StepError) -> None:
        """Tell why this node cannot take part."""
        self._tell({"error": as_text(error)})

    def ended(self, seconds: float) -> int | None:
        """Return the exit code of the training if it ends within `seconds`. Raises Outage if node 0 has gone."""
        self._gone.wait(seconds)
        if self.code is None and self._gone.is_set():
            raise lost(0, self.node.address)
        return self.code

    def _tell(self, told: dict[str, Any]) -> None:
        if self._connection:
            self._connection.send(told)

    def _follow(self, connection: Connection) -> None:
        for told in connection.said():
            if isinstance(told.get("ended"), int):
                self.code = told["ended"]
                break
        self._gone.set()

    def _no_answer(self, seconds: float, error: OSError) -> Outage:
        return Outage(
            Problem("NODES-E0407", f"node 0 at {self.node.address}:{self.node.port}",
                    f"no answer for {seconds:.0f} s ({error})", "node 0, which all others connect to",
                    "look in its log and what its pod waits for, and run again"),
            transient=False,
        )  # fmt: skip


class Connection:
    """Lines of JSON over a connection that notices when the machine behind it has gone."""

    def __init__(self, opened: socket.socket):
        opened.settimeout(None)
        for level, option, value in KEPT_ALIVE:
            opened.setsockopt(level, option, value)
        self._socket = opened
        self._lock = threading.Lock()

    def said(self) -> Iterator[dict[str, Any]]:
        """Give what the other side says until the connection ends."""
        with suppress(OSError, ValueError, RecursionError), self._socket.makefile("r", encoding="utf-8") as lines:
            while line := lines.readline(LONGEST_LINE):
                told = json.loads(line)
                if isinstance(told, dict):
                    yield told

    def send(self, told: dict[str, Any]) -> None:
        """Say something; a side that has gone does not hear it."""
        with suppress(OSError), self._lock:
            self._socket.sendall((json.dumps(told) + "\n").encode())

    def close(self) -> None:
        """End the connection."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
