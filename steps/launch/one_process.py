"""Runs the training in the process of the step itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# The variables that a launcher would set for a single process.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@contextmanager
def one_process(arguments: Callable[[], Any] | None) -> Iterator[None]:
    """Set this process up for training inside the block; with `arguments`, as a DeepSpeed process group of one.

    `arguments` creates the training arguments, which contain the DeepSpeed configuration. They are created before the
    model is loaded, because ZeRO-3 partitions weights during loading. Without them DeepSpeed is not imported.
    """
    if arguments is None:
        with _not_loaded():
            yield
        return
    import torch

    before = dict(os.environ)
    os.environ.update({name: os.environ.get(name, value) for name, value in ALONE.items()})
    try:
        _join_group("nccl" if torch.cuda.is_available() else "gloo")
        # transformers uses the configuration of the last created arguments while that object exists.
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
    """Hide DeepSpeed from imports: otherwise accelerate imports it, in three seconds, when a model is saved."""
    if "deepspeed" in sys.modules:
        yield
        return
    # This module checks on import whether DeepSpeed is installed. Import it before hiding DeepSpeed, so that a later
    # training in this process can still use it.
    import transformers.trainer  # noqa: F401

    sys.modules["deepspeed"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["deepspeed"]


def _join_group(backend: str) -> None:
    import deepspeed
    import torch

    if not torch.distributed.is_initialized() and os.environ["WORLD_SIZE"] == "1":
        # A process group of one needs no rendezvous port.
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        if backend == "gloo":
            # Otherwise DeepSpeed compiles its operator for communication in shared memory, which takes two minutes.
            deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend=backend)


def _leave_group() -> None:
    """Reset the process group and the DeepSpeed state, because a later training in this process may not use them."""
    import torch
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    if torch.distributed.is_initialized():
        import deepspeed

        deepspeed.comm.destroy_process_group()
        deepspeed.comm.comm.cdb = None
