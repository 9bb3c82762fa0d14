"""Contrastive preference optimisation (arXiv 2401.08417): no reference model."""

from steps.kinds.method import Loss, Method
from steps.kinds.methods.preferences import WITHOUT_REFERENCE

METHOD = Method(
    name="cpo",
    trainer="steps.finetune.trainers.without_reference:build_cpo",
    losses={
        "sigmoid": Loss(smooths=True),
        "hinge": Loss(),
        "ipo": Loss(),
        "simpo": Loss(smooths=True, reads=frozenset({"simpo_gamma"})),
    },
    reads=frozenset({"cpo_alpha"}),
    **WITHOUT_REFERENCE,
)
