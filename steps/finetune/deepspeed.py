"""Training with DeepSpeed in this one process: what has to stand before the model is loaded, and the whole weights."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError
from steps.finetune.arguments import training_arguments
from steps.params.settings import FinetuneSettings
from steps.weights import stored_tensors

# What a launcher would set: this process is all there is.
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@contextmanager
def distributed(settings: FinetuneSettings, output: Path) -> Iterator[None]:
    """Set up what `settings.deepspeed` needs, for the time of the block; without it keep DeepSpeed from being loaded.

    ZeRO-3 takes weights apart while they are loaded, so its configuration must be known by then.
    Raises UserError when this machine cannot train so.
    """
    if not settings.deepspeed:
        with _not_loaded():
            yield
        return
    import torch

    _refuse_unfit(settings, torch.cuda.is_available())
    before = dict(os.environ)
    os.environ.update({name: os.environ.get(name, value) for name, value in ALONE.items()})
    try:
        _join_group("nccl" if torch.cuda.is_available() else "gloo")
        from transformers import TrainingArguments

        # transformers looks for the configuration of the arguments that were made last, as long as they live.
        arguments = TrainingArguments(**training_arguments(settings, output))
        yield
        del arguments
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


def _refuse_unfit(settings: FinetuneSettings, cuda: bool) -> None:
    import torch

    asked = {name: settings.deepspeed[name]["enabled"] for name in ("fp16", "bf16")}
    if cuda and asked["bf16"] is True and not torch.cuda.is_bf16_supported():
        raise UserError(
            Problem("TRAIN-E0211", "deepspeed: bf16.enabled", "true on a GPU without bfloat16", "fp16",
                    'write "auto" for both')
        )  # fmt: skip
    if not cuda and asked["fp16"] is True:
        raise UserError(
            Problem("TRAIN-E0211", "deepspeed: fp16.enabled", "true without a GPU", "bf16", 'write "auto" for both')
        )
    if not cuda and not torch.distributed.is_gloo_available():
        raise UserError(
            Problem("TRAIN-E0212", "apply_deepspeed", "true without a GPU, and a torch without gloo",
                    "a torch that is built with gloo", "train on a GPU, or set apply_deepspeed=false")
        )  # fmt: skip


def whole_weights(trainer: Any) -> dict[str, Any] | None:
    """Gather the weights that ZeRO-3 took apart, on the CPU, without the frozen ones of a model with an adapter.

    None where the model itself has them.
    """
    engine = trainer.model_wrapped
    if not hasattr(engine, "zero_optimization_partition_weights") or not engine.zero_optimization_partition_weights():
        return None
    adapted = hasattr(trainer.model, "peft_config")
    return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=adapted)


def change_dtype(weights: dict[str, Any], dtype: Any) -> None:
    """Convert gathered weights; what is one tensor under two names stays one."""
    changed: dict[int, Any] = {}
    for name, tensor in list(weights.items()):
        weights[name] = changed.setdefault(id(tensor), tensor.to(dtype))


def left_out(model: Any, folder: Path) -> set[str]:
    """Name the tensors of a model folder that a model has no place for under their name."""
    stored = {name for file in folder.glob("*.safetensors") for name in stored_tensors(file)}
    return stored - set(model.state_dict())


def keep_names(model: Any) -> None:
    """Have weights saved under the names they were loaded from.

    transformers 5.17 notes every old name that it knows when ZeRO-3 loads, not only those that it met.
    """
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    if (known := getattr(plain, "_weight_conversions", None)) is not None:
        plain._weight_conversions = [one for one in known if one.was_used()]


def size_of(parameter: Any) -> int:
    """Count a parameter's numbers, also of one that ZeRO-3 took apart."""
    return int(getattr(parameter, "ds_numel", None) or parameter.numel())
