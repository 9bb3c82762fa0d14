"""Direct preference optimisation (arXiv 2305.18290), with all losses of TRL's trainer."""

from steps.kinds.method import Loss, Method
from steps.kinds.methods.preferences import REFERENCE, WITH_REFERENCE

METHOD = Method(
    name="dpo",
    trainer="steps.finetune.trainers.preference:build",
    # Losses of TRL 1.16, which rejects an unknown loss only at the first training step.
    losses={
        "sigmoid": Loss(),
        "sigmoid_norm": Loss(),
        "ipo": Loss(),
        "hinge": Loss(),
        "robust": Loss(smooths=True),
        "exo_pair": Loss(smooths=True, needs_smoothing=True),
        "nca_pair": Loss(),
        "bco_pair": Loss(),
        "sppo_hard": Loss(),
        "aot": Loss(smooths=True, compares_batch=True),
        "aot_unpaired": Loss(smooths=True, compares_batch=True),
        "apo_zero": Loss(),
        "apo_down": Loss(),
        "discopop": Loss(),
        "sft": Loss(),
    },
    reads=REFERENCE,
    **{**WITH_REFERENCE, "sums_losses": True},
)
