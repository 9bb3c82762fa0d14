"""A training in the process of the step itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# What a launcher would set: this process is all there is.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@contextmanager
def one_process(arguments: Callable[[], Any] | None) -> Iterator[None]:
    """Train in this process for the time of the block; with `arguments` as a DeepSpeed group of one.

    `arguments` makes the training arguments, which name the DeepSpeed configuration: ZeRO-3 takes weights apart while
    they are loaded, so it must be known by then. Without them DeepSpeed is not loaded at all.
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
        # transformers looks for the configuration of the arguments that were made last, as long as they live.
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
    """Make DeepSpeed look absent: accelerate would load it, three seconds, whenever a model is saved."""
    if "deepspeed" in sys.modules:
        yield
        return
    # While it is imported this looks for DeepSpeed, without loading it; a later training here may want to find it.
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
        # A group of one needs no port to meet at.
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        if backend == "gloo":
            # Otherwise DeepSpeed compiles an operator for several processes on one machine, which takes two minutes.
            deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend=backend)


def _leave_group() -> None:
    """Leave this process as it was: a later training in it may have no DeepSpeed."""
    import torch
    from accelerate.state import AcceleratorState
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(reset_partial_state=True)
    if torch.distributed.is_initialized():
        import deepspeed

        deepspeed.comm.destroy_process_group()
        deepspeed.comm.comm.cdb = None
