"""The arguments of every TRL trainer, except its own configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from steps.finetune.loading import load_tokenizer, lora_config
from steps.finetune.new_tokens import with_new_tokens
from steps.finetune.run import Run


def trl_inputs(run: Run, model: Any, rows: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """Return model, rows, tokenizer, adapter and callbacks; `rows` reads a split (by default `run.tokens`)."""
    settings, read = run.settings, rows or run.tokens
    return {
        "model": model,
        "train_dataset": read("train"),
        "eval_dataset": read("validation") if settings.training.evaluation_strategy != "no" else None,
        "processing_class": load_tokenizer(run.model, run.data, settings.pads_with_end),
        "peft_config": with_new_tokens(lora_config(settings, model), run.model, model),
        "callbacks": run.callbacks,
    }
