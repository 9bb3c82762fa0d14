"""Training in this process: alone, or as one of a group."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from steps.launch.group import current

# Variables that a launcher would set, for a single process.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@contextmanager
def in_this_process(arguments: Callable[[], Any] | None) -> Iterator[None]:
    """Train in this process within the block; with `arguments` and without a group, as a DeepSpeed group of size 1.

    `arguments` creates the training arguments, which contain the DeepSpeed configuration: ZeRO-3 partitions weights
    while they are loaded, so transformers must have the configuration before. Without `arguments`, DeepSpeed is not
    imported.
    """
    if arguments is None:
        with _not_loaded():
            yield
        return
    import torch

    before = dict(os.environ)
    os.environ.update({name: os.environ.get(name, value) for name, value in ALONE.items()})
    try:
        join_group("nccl" if torch.cuda.is_available() else "gloo")
        # transformers uses the configuration of the arguments created last, as long as a reference to them exists.
        made = arguments()
        yield
        del made
    finally:
        _leave_group()
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _not_loaded() -> Iterator[None]:
    """Hide DeepSpeed: accelerate would import it, which takes three seconds, whenever a model is saved."""
    if "deepspeed" in sys.modules:
        yield
        return
    # This module checks for DeepSpeed when it is imported, without loading it. Import it before DeepSpeed is hidden,
    # because a later training in this process may use DeepSpeed.
    import transformers.trainer  # noqa: F401

    sys.modules["deepspeed"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["deepspeed"]


def join_group(backend: str) -> bool:
    """Hand this process's group to DeepSpeed; without one, make a group of one. Returns whether it was made.

    The variables of ALONE, or of a launcher, are set.
    """
    import deepspeed
    import torch

    made = not torch.distributed.is_initialized() and os.environ["WORLD_SIZE"] == "1"
    if made:
        # A process group of size 1 needs no port.
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    if backend == "gloo":
        # Otherwise DeepSpeed compiles an operator for several processes per machine, which takes two minutes.
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend=backend)
    return made


def _leave_group() -> None:
    """Restore the state of this process, because a later training in it may not use DeepSpeed."""
    import torch
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    if torch.distributed.is_initialized() and current().count == 1:
        import deepspeed

        deepspeed.comm.destroy_process_group()
        deepspeed.comm.comm.cdb = None
