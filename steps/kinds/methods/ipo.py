"""Identity preference optimisation (arXiv 2310.12036): DPO's trainer with a loss of finite optimal margin."""

from steps.kinds.method import Loss, Method
from steps.kinds.methods.preferences import REFERENCE, WITH_REFERENCE

METHOD = Method(
    name="ipo",
    trainer="steps.finetune.trainers.preference:build",
    losses={"ipo": Loss()},
    reads=REFERENCE,
    **WITH_REFERENCE,
)
