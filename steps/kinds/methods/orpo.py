"""Odds ratio preference optimisation (arXiv 2403.07691): no reference model."""

from steps.kinds.method import Loss, Method
from steps.kinds.methods.preferences import WITHOUT_REFERENCE

METHOD = Method(
    name="orpo",
    trainer="steps.finetune.trainers.without_reference:build_orpo",
    losses={"orpo": Loss()},
    reads=frozenset(),
    **WITHOUT_REFERENCE,
)
