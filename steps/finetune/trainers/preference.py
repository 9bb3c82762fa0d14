"""DPO and its relatives with TRL: answers that people prefer become likelier than the others, measured by the base."""

from __future__ import annotations

from typing import Any

from trl import DPOConfig, DPOTrainer  # type: ignore[attr-defined]

from steps.finetune.arguments import training_arguments
from steps.finetune.loading import load_model
from steps.finetune.quantising import with_exact_adapter
from steps.finetune.run import Run
from steps.finetune.trainers.prepared_answers import PreparedAnswers
from steps.finetune.trainers.trl_inputs import trl_inputs


class PreparedDPOTrainer(PreparedAnswers, DPOTrainer):
    """DPO on tokens that are there."""


def build(run: Run) -> Any:
    """Make the trainer; the reference is the model as it came, unless another one was imported beside it.

    With a new adapter that is the model without it; with one that training goes on with TRL keeps a frozen copy of it;
    without adapter a copy of the base.
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
    made = PreparedDPOTrainer(run, args=config, **trl_inputs(run, model))
    return with_exact_adapter(made, settings)
