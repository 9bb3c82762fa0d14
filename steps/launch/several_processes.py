"""Start a command in several processes with torchrun's agent, and learn how each of them ended."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from steps.launch.children import noting_stops, python_path
from steps.running import PARENT

# Seconds between SIGTERM and SIGKILL for processes whose training has lost one: they have nothing left to save.
AFTER_A_LOSS = 30
PORT = 29400


@dataclass(frozen=True)
class Node:
    """This node among those of a training; the first one is reached at `address`."""

    count: int = 1
    rank: int = 0
    address: str = ""
    port: int = PORT

    @classmethod
    def of_environment(cls) -> Node:
        """Read the variables that Kubeflow Trainer gives to every node of a TrainJob."""
        told = os.environ
        return cls(int(told.get("PET_NNODES", 1)), int(told.get("PET_NODE_RANK", 0)),
                   told.get("PET_MASTER_ADDR", ""), int(told.get("PET_MASTER_PORT", PORT)))  # fmt: skip


@dataclass(frozen=True)
class Ended:
    """How a process ended that did not succeed."""

    rank: int
    code: int
    """Its exit code; negative: the signal that killed it."""
    when: float

    @property
    def killed(self) -> bool:
        """Whether a signal killed it, other than the agent's own to the survivors of a loss."""
        return self.code < 0 and -self.code != signal.SIGTERM


@dataclass(frozen=True)
class Outcome:
    """How the processes of a training ended."""

    failed: list[Ended]
    """Those that did not succeed, the first to fail first."""
    asked_to_stop: bool
    """Whether this process got SIGTERM or Ctrl-C meanwhile."""


def run_processes(module: str, words: Sequence[str], per_node: int, node: Node | None = None) -> Outcome:
    """Run `python -m module words` in `per_node` processes on this node until all have ended.

    When one fails, the others are stopped. SIGTERM and Ctrl-C go to all processes, which end by themselves; if one has
    ended and another one still waits for it, that one is killed. If this process is killed, they end too.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    place = node or Node()
    config = LaunchConfig(
        min_nodes=place.count,
        max_nodes=place.count,
        nproc_per_node=per_node,
        max_restarts=0,
        run_id="training",
        shutdown_timeout=AFTER_A_LOSS,
        signals_to_handle="SIGHUP",  # the agent would kill processes that take longer than that to save
        **_meeting(place),
    )
    failed: list[Ended] = []
    with _signals_passed_on() as asked, _variables({PARENT: str(os.getpid())}):
        try:
            elastic_launch(config, sys.executable)("-u", "-m", module, *words)
        except ChildFailedError as error:
            failed = [Ended(rank, one.exitcode, one.timestamp) for rank, one in error.failures.items()]
    return Outcome(sorted(failed, key=lambda one: one.when), asked.is_set())


def _meeting(node: Node) -> dict[str, Any]:
    """Return where the processes of all nodes meet; on one node, a port that is free."""
    if node.count == 1:
        return {"rdzv_backend": "c10d", "rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1"}
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": f"{node.address}:{node.port}",
        "rdzv_configs": {"rank": node.rank},
    }


@contextmanager
def _signals_passed_on() -> Iterator[threading.Event]:
    """Send SIGTERM to the processes that this one starts, once each, when it gets SIGTERM or Ctrl-C: the event."""
    over = threading.Event()
    with noting_stops() as asked:
        passing = threading.Thread(target=_pass_on, args=(asked.event, over), name="signals", daemon=True)
        passing.start()
        try:
            yield asked.event
        finally:
            over.set()


def _pass_on(asked: threading.Event, over: threading.Event) -> None:
    """Stop every process that is there after `asked` was set: the signal may come before they are started."""
    import psutil

    told: set[int] = set()
    while not over.wait(0.1):
        if asked.is_set():
            for child in psutil.Process().children():
                if child.pid not in told:
                    told.add(child.pid)
                    with suppress(psutil.Error):
                        child.send_signal(signal.SIGTERM)


@contextmanager
def _variables(changes: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment, which processes inherit; find this code wherever this process found it."""
    before = dict(os.environ)
    os.environ.update({**changes, "PYTHONPATH": python_path()})
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
