"""What both engines of DeepSpeed share: its package, and the process group that it needs, also for one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steps.generation.transformers_engine import TransformersEngine
from steps.launch.this_process import ALONE, join_group
from steps.params.settings import GenerateSettings

PACKAGE = "deepspeed"


def missing(settings: GenerateSettings) -> str:
    """Say what this machine lacks."""
    absent = [name for name in ("torch", "transformers", PACKAGE) if find_spec(name) is None]
    return f"the package{'s' * (len(absent) > 1)} {' and '.join(absent)}" if absent else ""


def gpus() -> int:
    """Return how many GPUs this process sees."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def join() -> Callable[[], None]:
    """Hand this process's group to DeepSpeed, or make a group of one; return what leaves it again."""
    import deepspeed
    import torch

    before = dict(os.environ)
    if not torch.distributed.is_initialized():
        os.environ.update({name: os.environ.get(name, value) for name, value in ALONE.items()})
    alone = join_group("nccl" if torch.cuda.is_available() else "gloo")

    def leave() -> None:
        if alone:
            deepspeed.comm.destroy_process_group()
            deepspeed.comm.comm.cdb = None
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)

    return leave


def buffers_of(model: Any) -> dict[str, Any]:
    """Return copies of a model's buffers, such as the frequencies of rotary positions, by name."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def computed_buffers(auto_class: Any, folder: Path, number_type: Any) -> dict[str, Any]:
    """Return the buffers that a model computes when it is made, as transformers makes it, by name; loads no weights.

    While ZeRO-3 loads a model, every number is made in 16 bits, also those that should have 32.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    with init_empty_weights(include_buffers=False):
        model = auto_class.from_config(config, dtype=number_type)
    return {
        f"{place}.{name}".lstrip("."): module._buffers[name]
        for place, module in model.named_modules()
        for name in module._non_persistent_buffers_set
        if module._buffers[name] is not None and not module._buffers[name].is_meta
    }


def restore_buffers(model: Any, kept: dict[str, Any]) -> None:
    """Undo that DeepSpeed converts buffers to 16 bits with the weights, in which rotary positions are inexact."""
    for name, buffer in list(model.named_buffers()):
        if name in kept and kept[name].dtype != buffer.dtype:
            place, _, own = name.rpartition(".")
            model.get_submodule(place)._buffers[own] = kept[name].to(buffer.device)


class InGroup(TransformersEngine):
    """A model of transformers that was given to DeepSpeed, for the time that this process is in a group."""

    def __init__(self, settings: GenerateSettings, folder: Path, adapter: Path | None):
        self._leave: Callable[[], None] | None = join()
        try:
            super().__init__(settings, folder, adapter)
        except BaseException:
            self.__exit__()
            raise
        self.versions = {**self.versions, PACKAGE: version(PACKAGE)}

    def __exit__(self, *told: object) -> None:
        super().__exit__(*told)
        if self._leave:
            self._leave()
        self._leave = None
