"""Ray on a node of a training: the head on node 0, which Ray on the other nodes joins.

    ray start --head --port=… --num-gpus=8 --include-dashboard=false --disable-usage-stats --block
    ray start --address=HEAD:… --num-gpus=8 --disable-usage-stats --block

The command goes on as long as Ray does, and ends Ray when it is stopped. Anybody who reaches Ray can run code in it, so
that a token keeps others out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from steps.errors import Outage, Problem
from steps.launch.children import end_group, python_path
from steps.launch.meeting import Look
from steps.launch.several_processes import Node

COMMAND = (sys.executable, "-u", "-m", "ray.scripts.scripts", "start")
STARTED = "Ray runtime started."  # what it prints when this node is one of the cluster (ray 2.60)
START_SECONDS = 300.0  # for one node, whose machine may be busy
TAIL = 20  # lines that an error shows
WITHOUT_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}
SHARED_MEMORY = "/dev/shm"
SHARE = 0.5  # of /dev/shm for Ray's objects; NCCL and torch's loaders have the rest
LEAST_STORE = 75 * 2**20  # bytes, of ray 2.60


def variables(node: Node, token: str) -> dict[str, str]:
    """Return the variables of every process that uses the cluster."""
    return {
        "RAY_ADDRESS": address_of(node),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        **WITHOUT_REPORTS,
    }


def address_of(node: Node) -> str:
    """Return where Ray's head is: at the port after the one where the nodes meet."""
    return f"{node.address}:{node.port + 1}"


def arguments_of(node: Node, gpus: int, shared_memory: int) -> list[str]:
    """Return the arguments of `ray start` on a node with so many GPUs, and so many free bytes in /dev/shm."""
    head = ["--head", f"--port={node.port + 1}", "--include-dashboard=false"]
    words = head if node.rank == 0 else [f"--address={address_of(node)}"]
    store = int(shared_memory * SHARE)
    # Left to itself, Ray takes a share of the memory, and the disk if /dev/shm has less.
    sized = [f"--object-store-memory={store}"] if store >= LEAST_STORE else []
    return [*words, f"--num-gpus={gpus}", *sized, "--disable-usage-stats", "--block"]


class Ray:
    """Ray on this node."""

    def __init__(self, node: Node, gpus: int, token: str, environment: Mapping[str, str] | None = None):
        self.node = node
        self.gpus = gpus
        self.environment = {**(environment or {}), **variables(node, token)}
        self._process: subprocess.Popen[str] | None = None
        self._started = threading.Event()
        self._tail: deque[str] = deque(maxlen=TAIL)

    def start(self, look: Look) -> None:
        """Start Ray, and return when this node is one of the cluster; `look` is called meanwhile, and may raise.

        Raises Outage if Ray ends, or does not start in START_SECONDS.
        """
        environment = {**os.environ, "PYTHONPATH": python_path(), **self.environment}
        environment.pop("RAY_ADDRESS")  # of a cluster to connect to, in place of the one that is started
        self._process = subprocess.Popen(
            [*COMMAND, *arguments_of(self.node, self.gpus, free_bytes(SHARED_MEMORY))],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=environment, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, args=(self._process,), name="ray", daemon=True).start()
        until = time.monotonic() + START_SECONDS
        while not self._started.wait(0.2):
            look()
            self.look()
            if time.monotonic() >= until:
                raise self._ended(f"not started after {START_SECONDS:.0f} s")

    def look(self) -> None:
        """Raise Outage if Ray has ended on this node."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise self._ended(f"ended with code {code}")

    def stop(self) -> None:
        """End Ray on this node, with everything that it started."""
        if self._process is not None:
            end_group(self._process, 0.0, "Ray")  # nothing is left to save, and its own end takes seconds

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._tail.append(line.rstrip())
            if STARTED in line:
                self._started.set()

    def _ended(self, how: str) -> Outage:
        error = Outage(
            Problem("NODES-E0408", f"Ray on node {self.node.rank}", how, "Ray until the training ends",
                    "see its last lines above, and run again with resume_from_checkpoint=true"),
            transient=False,
        )  # fmt: skip
        error.add_note("\n".join([f"the end of Ray's output on node {self.node.rank}:", *self._tail]))
        return error


def free_bytes(folder: str) -> int:
    """Return the free bytes of a file system; 0 where it is missing."""
    try:
        found: Any = os.statvfs(folder)
    except OSError:
        return 0
    return int(found.f_bavail * found.f_frsize)
