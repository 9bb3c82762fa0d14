"""Processes of their own for every training; none of this loads torch."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What arms.py needs and can be loaded before a process is forked: bitsandbytes, which transformers' Trainer loads, uses
# the GPU at import, and the processes of one that has used it cannot.
PRELOADED = ["torch", "datasets", "pandas", "sklearn.metrics", "tokenizers", "torch.distributed.fsdp", "torch._dynamo",
             "transformers.modeling_utils"]  # fmt: skip


class Failed(Exception):
    """A process ended without a result."""


@dataclass(frozen=True)
class Job:
    """One training of one arm."""

    arm: str
    shape: str
    folder: str
    """With model and rows, as `shapes.make` wrote them."""
    scratch: str
    device: str
    counts: dict[str, int]
    """What `shapes.make` returned."""


class Workers:
    """Starts processes that have most libraries loaded already, and calls functions of arms.py in them."""

    def __init__(self, log: Path):
        self.log = log
        self.context: Any = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)

    def facts(self, device: str) -> dict[str, Any]:
        """Return the facts of the device; start processes afresh if a library used the GPU while it was loaded."""
        found = self.call(180, "device_facts", device)
        if not found["forks"]:
            self.context = multiprocessing.get_context("spawn")
            found = self.call(180, "device_facts", device)
        return found

    def call(self, seconds: float, name: str, *given: Any) -> dict[str, Any]:
        """Call a function of arms.py in a new process.

        Raises Failed with the end of its output if it fails, TimeoutError if it takes longer; then it is ended.
        """
        here, there = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_send, args=(there, str(self.log), name, *given))
        process.start()
        there.close()
        try:
            if not here.poll(max(seconds, 1.0)):
                process.kill()
                raise TimeoutError
            return here.recv()
        except EOFError:
            raise Failed(self.log.read_text(encoding="utf-8", errors="replace")[-4000:]) from None
        finally:
            process.join(30)
            if process.is_alive():  # with its result sent; what is left holds the GPU's memory
                process.kill()
                process.join()
            here.close()


def _send(to: Any, log: str, name: str, *given: Any) -> None:
    """Send back what a function of arms.py returns; all that it prints goes to `log`."""
    with open(log, "a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            import arms

            to.send(getattr(arms, name)(*given))
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
