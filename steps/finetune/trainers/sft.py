"""Supervised fine-tuning with TRL: the loss is computed on the tokens with labels."""

from __future__ import annotations

from typing import Any

from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_model
from steps.finetune.quantising import with_exact_adapter
from steps.finetune.rows import spread
from steps.finetune.run import Run
from steps.finetune.trainers.trl_inputs import trl_inputs


def build(run: Run) -> Any:
    """Build the trainer.

    prepare_data tokenises exactly as TRL does, so only TRL's preparation is skipped.
    """
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    settings = run.settings
    model = load_model(run.model, settings)
    config = SFTConfig(
        **training_arguments(settings, run.checkpoints),
        max_length=settings.max_length,
        packing=settings.packing,
        pad_to_multiple_of=settings.max_length if settings.pad_to_max_length else None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    made = spread(SFTTrainer)(args=config, **trl_inputs(run, model))
    return with_exact_adapter(made, settings)
