"""The model that is trained, unwrapped and with whole weights, to write completions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def whole_model(trainer: Any) -> Iterator[Any]:
    """Give the model of a trainer as one that can write: without the engine around it, every weight whole.

    All processes call this together: weights that are split are gathered for the time of the block.
    """
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    with _gathered(trainer, model), torch.no_grad(), trainer.accelerator.autocast():
        yield model


def _gathered(trainer: Any, model: Any) -> Any:
    if trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
        return _without_partitions(trainer.model_wrapped)
    return _unsharded(model) if trainer.is_fsdp_enabled else nullcontext()


@contextmanager
def _without_partitions(engine: Any) -> Iterator[None]:
    """Gather the weights that ZeRO-3 has split, and keep them, so that processes need not write as many tokens.

    DeepSpeed's hooks would let a layer's weights go once it has computed, and gather them anew for the next token.
    """
    import deepspeed
    from trl.models.utils import add_hooks, remove_hooks

    with deepspeed.zero.GatheredParameters(engine.module.parameters()):
        remove_hooks(engine)
        try:
            yield
        finally:
            add_hooks(engine)


@contextmanager
def _unsharded(model: Any) -> Iterator[None]:
    """Gather the weights that fully_shard has split, and keep them, so that processes need not write as many tokens."""
    from torch.distributed.fsdp import FSDPModule

    parts: list[Any] = [module for module in model.modules() if isinstance(module, FSDPModule)]
    # Which module is the outermost one is found out at the first forward pass. It may be of an inner one: an adapter's
    # model is written with from within.
    parts[0]._get_fsdp_state()._lazy_init()
    before = [_reshards(part) for part in parts]
    try:
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        yield
    finally:
        for part, reshards in zip(parts, before, strict=True):
            part.reshard()
            part.set_reshard_after_forward(reshards, recurse=False)


def _reshards(part: Any) -> bool:
    state = part._get_fsdp_state()
    return bool(state._fsdp_param_group and state._fsdp_param_group._reshard_after_forward)
