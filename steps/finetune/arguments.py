"""Convert parameters to Hugging Face training arguments; the only module with the names of both."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from steps.models.quantising import sixteen_bit_type
from steps.params.metrics import direction_of
from steps.params.reading import todays_value
from steps.params.settings import FinetuneSettings
from steps.params.training import TrainingParams


def training_arguments(settings: FinetuneSettings, output: Path) -> dict[str, Any]:
    """Return keyword arguments for any `transformers.TrainingArguments`, including those whose default would differ.

    Checkpoints between evaluations, and the number of checkpoints, are handled by `watching.Checkpoints`.
    """
    import torch

    training = settings.training
    cuda = torch.cuda.is_available()
    half = training.precision == "16"
    bf16 = half and sixteen_bit_type() == "bfloat16"
    if half and settings.deepspeed and isinstance(asked := settings.deepspeed["bf16"]["enabled"], bool):
        bf16 = asked  # the user's configuration decides
    evaluates = training.evaluation_strategy != "no"
    return {
        "output_dir": str(output),
        "num_train_epochs": training.num_train_epochs,
        "max_steps": training.max_steps,
        "per_device_train_batch_size": training.per_device_train_batch_size,
        "per_device_eval_batch_size": training.per_device_eval_batch_size,
        "gradient_accumulation_steps": training.gradient_accumulation_steps,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.lr_scheduler_type,
        "warmup_steps": training.warmup_steps or training.warmup_ratio,  # a value below 1 is a ratio of all steps
        # The plan converts old names, but a step can also run without the plan.
        "optim": todays_value(TrainingParams, "optim", training.optim),
        "optim_target_modules": "all-linear" if training.optim == "galore_adamw" else None,
        "neftune_noise_alpha": training.neftune_noise_alpha or None,
        "full_determinism": training.determinism == "full",
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "deepspeed": deepcopy(settings.deepspeed) or None,
        "bf16": bf16,
        "fp16": half and not bf16,
        "gradient_checkpointing": training.gradient_checkpointing == "true",
        "seed": training.seed,
        "eval_strategy": training.evaluation_strategy,
        "eval_steps": training.eval_steps if training.evaluation_strategy == "steps" else None,
        # The Trainer selects the best model among checkpoints, so every evaluation needs one.
        "save_strategy": training.evaluation_strategy if evaluates else "epoch",
        "save_steps": training.eval_steps,
        "load_best_model_at_end": evaluates,
        "metric_for_best_model": training.metric_for_best_model if evaluates else None,
        "greater_is_better": direction_of(training.metric_for_best_model) if evaluates else None,
        "logging_strategy": training.logging_strategy,
        "logging_steps": training.logging_steps,
        "logging_nan_inf_filter": False,  # the filter would report a NaN loss as 0.0
        "report_to": "none",  # steps/tracking.py reports, and its errors never stop a training
        "disable_tqdm": True,
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        **_sharded(settings),
    }


def _sharded(settings: FinetuneSettings) -> dict[str, Any]:
    """Return the arguments of fully_shard (FSDP2); empty for a strategy without."""
    asked = settings.processes
    if not shards(settings):
        return {}
    config: dict[str, Any] = {
        "version": 2,
        "reshard_after_forward": asked.fsdp.fsdp_reshard_after_forward,
        "cpu_offload": asked.fsdp.fsdp_cpu_offload,
        # Each process writes and reads its own part, and another number of processes can read them.
        "state_dict_type": "SHARDED_STATE_DICT",
    }
    if names := asked.fsdp.fsdp_transformer_layer_cls_to_wrap:
        config["transformer_layer_cls_to_wrap"] = [name.strip() for name in names.split(",")]
    return {"fsdp": True, "fsdp_config": config}


def shards(settings: FinetuneSettings) -> bool:
    """Return whether the processes share the model with fully_shard."""
    asked = settings.processes
    return asked.count > 1 and asked.strategy == "fsdp" and not settings.deepspeed
