"""Training with DeepSpeed in a single process: its setup before the model is loaded, and gathering of weights."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError
from steps.finetune.arguments import training_arguments
from steps.launch.one_process import one_process
from steps.models.weights import stored_tensors
from steps.params.settings import FinetuneSettings


def launched(settings: FinetuneSettings, output: Path) -> AbstractContextManager[None]:
    """Set up `settings.deepspeed` for the time of a block. Raises UserError if this machine does not support it."""
    if not settings.deepspeed:
        return one_process(None)
    import torch

    _refuse_unfit(settings, torch.cuda.is_available())

    def arguments() -> Any:
        from transformers import TrainingArguments

        return TrainingArguments(**training_arguments(settings, output))

    return one_process(arguments)


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
                    "a torch build with gloo", "train on a GPU, or set apply_deepspeed=false")
        )  # fmt: skip


def whole_weights(trainer: Any) -> dict[str, Any] | None:
    """Gather the weights that ZeRO-3 partitioned, on the CPU, without frozen weights for a model with an adapter.

    Returns None if the weights are not partitioned.
    """
    engine = trainer.model_wrapped
    if not hasattr(engine, "zero_optimization_partition_weights") or not engine.zero_optimization_partition_weights():
        return None
    adapted = hasattr(trainer.model, "peft_config")
    return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=adapted)


def change_dtype(weights: dict[str, Any], dtype: Any) -> None:
    """Convert gathered weights in place; one tensor under two names stays one tensor."""
    changed: dict[int, Any] = {}
    for name, tensor in list(weights.items()):
        weights[name] = changed.setdefault(id(tensor), tensor.to(dtype))


def left_out(model: Any, folder: Path) -> set[str]:
    """Return the names of the tensors in a model folder that the model does not have."""
    stored = {name for file in folder.glob("*.safetensors") for name in stored_tensors(file)}
    return stored - set(model.state_dict())


def keep_names(model: Any) -> None:
    """Make the model save weights under the names they were loaded from.

    With ZeRO-3, transformers 5.17 records all renamings that it knows, not only those that it used.
    """
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    if (known := getattr(plain, "_weight_conversions", None)) is not None:
        plain._weight_conversions = [one for one in known if one.was_used()]


def size_of(parameter: Any) -> int:
    """Return the number of elements of a parameter, also if ZeRO-3 partitioned it."""
    return int(getattr(parameter, "ds_numel", None) or parameter.numel())
