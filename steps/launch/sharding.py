"""Let the Trainer shard a model with fully_shard (FSDP2) on CPUs as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def gather_layers(trainer: Any) -> None:
    """Have fully_shard gather a model's layers one at a time, unless the user named other ones.

    accelerate shards the input embeddings by themselves, and would fail if they were in a module that is gathered, as
    in BERT (accelerate 1.15).
    """
    plugin = trainer.accelerator.state.fsdp_plugin
    if not plugin.transformer_cls_names_to_wrap:
        plugin.transformer_cls_names_to_wrap = layers_of(trainer.model)


def layers_of(model: Any) -> list[str]:
    """Return the class names of the modules that a model is not to be split within, and that have no embeddings."""
    named = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    embeddings = model.get_input_embeddings()
    return sorted(
        {
            type(module).__name__
            for module in model.modules()
            if type(module).__name__ in named and all(part is not embeddings for part in module.modules())
        }
    )


@contextmanager
def sharing_kept(model: Any) -> Iterator[None]:
    """Within the block, accelerate leaves embeddings in the outermost group of a model that shares their parameters.

    It puts input and output embeddings into one group, which fails if another module has one of their parameters too,
    as in BERT's head for masked words and in T5 (accelerate 1.15).
    """
    names = [name for name in ("get_input_embeddings", "get_output_embeddings") if hasattr(model, name)]
    if not _shares_more(model):
        names = []
    for name in names:
        setattr(model, name, lambda: None)
    try:
        yield
    finally:
        for name in names:
            delattr(model, name)


def _shares_more(model: Any) -> bool:
    """Return whether a module other than the embeddings has a parameter of the embeddings."""
    embeddings = [one for one in (model.get_input_embeddings(), model.get_output_embeddings()) if one is not None]
    theirs = {id(parameter) for module in embeddings for parameter in module.parameters()}
    return any(
        id(parameter) in theirs
        for module in model.modules()
        if all(module is not one for one in embeddings)
        for parameter in module.parameters(recurse=False)
    )


@contextmanager
def sharding_on_cpus() -> Iterator[None]:
    """Within the block, accelerate uses its FSDP plugin for processes on CPUs.

    Without this it trains with a copy in each process, without a message (accelerate 1.15): it knows FSDP for GPUs
    only. Everything else, from the sharding to the checkpoints, is what it does on GPUs.
    """
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    before = AcceleratorState.__init__

    def made(self: Any, *given: Any, **named: Any) -> None:
        before(self, *given, **named)
        # Every later instance takes the type of the processes again, which are on CPUs, into the state that all share.
        plugin = named.get("fsdp_plugin") or vars(self).get("fsdp_plugin")
        if plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no" and "fsdp_plugin" in named:
                plugin.set_mixed_precision(self._mixed_precision)
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = made
    try:
        yield
    finally:
        AcceleratorState.__init__ = before
