"""Kahneman-Tversky optimisation (arXiv 2402.01306): single answers rated good or bad."""

from steps.kinds.method import Loss, Method
from steps.kinds.methods.preferences import REFERENCE, WITH_REFERENCE

METHOD = Method(
    name="kto",
    trainer="steps.finetune.trainers.kto:build",
    losses={"kto": Loss(compares_batch=True), "apo_zero_unpaired": Loss()},
    reads=REFERENCE | {"desirable_weight", "undesirable_weight", "kto_rows"},
    **{**WITH_REFERENCE, "rated": True, "answers_per_row": 1, "best_metrics": False},
)
