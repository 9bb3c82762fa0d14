"""DPO and its variants with TRL: preferred answers become more probable than the others, relative to a reference."""

from __future__ import annotations

from typing import Any

from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_model
from steps.finetune.quantising import with_exact_adapter
from steps.finetune.rows import by_row, spread
from steps.finetune.run import Run
from steps.finetune.trainers.prepared_answers import PreparedAnswers
from steps.finetune.trainers.trl_inputs import trl_inputs


class PreparedDPOTrainer(PreparedAnswers, DPOTrainer):
    """DPOTrainer for rows that are already tokenised."""


def build(run: Run) -> Any:
    """Build the trainer; the reference is the model before training, unless a separate reference was imported.

    With a new adapter, the reference is the model without the adapter; with an adapter whose training is continued,
    TRL keeps a frozen copy of the adapter; without an adapter, a copy of the base.
    """
    settings, wanted = run.settings, run.settings.preferred
    model = load_model(run.model, settings)
    config = DPOConfig(
        **training_arguments(settings, run.checkpoints),
        max_length=settings.max_length,
        pad_to_multiple_of=settings.max_length if settings.pad_to_max_length else None,
        loss_type=wanted.losses,
        loss_weights=wanted.weights,
        beta=wanted.beta,
        label_smoothing=wanted.label_smoothing,
        precompute_ref_log_probs=wanted.precompute_ref_log_probs,
    )
    made = spread(PreparedDPOTrainer, by_row)(run, args=config, **trl_inputs(run, model))
    return with_exact_adapter(made, settings)
