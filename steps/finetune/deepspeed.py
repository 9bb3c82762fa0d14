"""The setup of DeepSpeed before the model is loaded, and the names of the weights that it saves."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError
from steps.finetune.arguments import training_arguments
from steps.launch.this_process import in_this_process
from steps.params.settings import FinetuneSettings


def launched(settings: FinetuneSettings, output: Path) -> AbstractContextManager[None]:
    """Set up `settings.deepspeed` for the time of a block. Raises UserError if this machine does not support it."""
    if not settings.deepspeed:
        return in_this_process(None)
    import torch

    _refuse_unfit(settings, torch.cuda.is_available())

    def arguments() -> Any:
        from transformers import TrainingArguments

        return TrainingArguments(**training_arguments(settings, output))

    return in_this_process(arguments)


def _refuse_unfit(settings: FinetuneSettings, cuda: bool) -> None:
    import torch

    asked = {name: settings.deepspeed[name]["enabled"] for name in ("fp16", "bf16")}
    if cuda and asked["bf16"] is True and not torch.cuda.is_bf16_supported(including_emulation=False):
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


def keep_names(model: Any) -> None:
    """Make the model save weights under the names they were loaded from.

    With ZeRO-3, transformers 5.17 records all renamings that it knows, not only those that it used.
    """
    plain = model.get_base_model() if hasattr(model, "peft_config") else model
    if (known := getattr(plain, "_weight_conversions", None)) is not None:
        plain._weight_conversions = [one for one in known if one.was_used()]
