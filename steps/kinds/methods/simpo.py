"""Simple preference optimisation (arXiv 2405.14734): CPO's trainer without CPO's additional loss term."""

from steps.kinds.method import Loss, Method
from steps.kinds.methods.preferences import WITHOUT_REFERENCE

METHOD = Method(
    name="simpo",
    trainer="steps.finetune.trainers.without_reference:build_cpo",
    losses={"simpo": Loss(smooths=True, reads=frozenset({"simpo_gamma"}))},
    reads=frozenset(),
    **WITHOUT_REFERENCE,
)
