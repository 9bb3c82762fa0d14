"""The processes that train together: which one this is, and how they agree.

A process that trains alone is a group of one, in which every call returns at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

# Variable with the seconds after which a training that stands still is ended: no process works alone for that long.
PATIENCE = "FINETUNE_COLLECTIVE_SECONDS"
USUAL_PATIENCE = 600.0
MARGIN = 60.0  # in which a process that stands still can tell where, before a collective operation fails


def patience_seconds() -> float:
    """Return the seconds after which a training that stands still is ended."""
    return float(os.environ.get(PATIENCE) or USUAL_PATIENCE)


class Group:
    """All processes of a training; `control` is torch's process group for agreements on the CPU."""

    def __init__(self, rank: int = 0, count: int = 1, local_rank: int = 0, control: Any = None):
        self.rank = rank
        self.count = count
        self.local_rank = local_rank
        self._control = control

    @property
    def is_first(self) -> bool:
        """Whether this process locks, seals, tracks and reports for all."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Return whether `flag` is true in one of the processes, the same in all of them."""
        if self.count == 1:
            return flag
        import torch
        import torch.distributed as dist

        told = torch.tensor([int(flag)])
        dist.all_reduce(told, op=dist.ReduceOp.MAX, group=self._control)
        return bool(told[0])

    def all_of(self, value: Any) -> list[Any]:
        """Return the values of all processes, in the order of their ranks."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self._control)
        return found

    def of_first(self, value: Any) -> Any:
        """Return the value of the first process."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        told = [value]
        dist.broadcast_object_list(told, src=0, group=self._control)
        return told[0]

    def wait(self) -> None:
        """Return when all processes have called this."""
        self.any(False)


_current = Group()


def current() -> Group:
    """Return the group of this process."""
    return _current


@contextmanager
def joined() -> Iterator[Group]:
    """Join the group that torchrun's variables describe, for the time of a block."""
    global _current
    import torch
    import torch.distributed as dist

    rank, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(local)
    else:
        # The Trainer loads a checkpoint to its device, which accelerate calls cpu:0; torch.load knows cpu only.
        torch.serialization.register_package(
            0, lambda _: None, lambda storage, place: storage if place.startswith("cpu:") else None
        )
    timeout = timedelta(seconds=patience_seconds() + MARGIN)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    # NCCL would need the GPU for every agreement, and wait for the work that is queued there.
    control = dist.new_group(backend="gloo", timeout=timeout)
    before, _current = _current, Group(rank, count, local, control)
    try:
        yield _current
    finally:
        _current = before
        dist.destroy_process_group()
