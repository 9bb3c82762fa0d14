"""Trainings one after the other in the same processes, with a folder of jobs.

What steps/finetune/worker.py does once it does here for every job in the folder, so that a test need not start
processes for each of them. `together` forks the processes from one that has loaded the libraries; torchrun's agent
starts this module as a program.
"""

from __future__ import annotations

import os
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.finetune.curves import TrainingCurve
from steps.finetune.training import Training, train
from steps.launch.group import joined
from steps.launch.sharding import sharding_on_cpus


def main(folder: Path) -> None:
    """Take part in all jobs of a folder; how the model was shared is written beside each of them."""
    from accelerate.state import AcceleratorState, GradientState

    with joined() as group, sharding_on_cpus():
        for job in sorted(folder.glob("*.json")):
            training = Training.from_text(job.read_text(encoding="utf-8"))
            before = dict(os.environ)
            try:
                with sharing_noted(job.with_suffix(f".shared-{group.rank}")):
                    train(training, TrainingCurve(training.settings, training.folder))
                    AcceleratorState._reset_state(reset_partial_state=True)
            except Exception:
                job.with_suffix(f".failed-{group.rank}").write_text(traceback.format_exc(), encoding="utf-8")
                os._exit(1)
            GradientState._reset_state()
            os.environ.clear()  # transformers asks accelerate for FSDP and DeepSpeed by variables
            os.environ.update(before)
            group.wait()


@contextmanager
def sharing_noted(file: Path) -> Iterator[None]:
    """Write into a file how accelerate shared the model, which it forgets at the end of the block."""
    from accelerate.state import AcceleratorState

    forget = AcceleratorState._reset_state

    def noted(**given: Any) -> None:
        if kind := AcceleratorState._shared_state.get("distributed_type"):
            file.write_text(kind.value, encoding="utf-8")
        forget(**given)

    AcceleratorState._reset_state = noted
    try:
        yield
    finally:
        AcceleratorState._reset_state = forget


def together(folder: Path, count: int) -> None:
    """Run the jobs in `count` forks of this process; exits with 1 if one of them fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ["LOCAL_SIZE"] = "1"  # DeepSpeed would start a program to count the machine's parts whenever it shares
    children = []
    for rank in range(count):
        if (child := os.fork()) == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
            main(folder)
            os._exit(0)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(ends))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
