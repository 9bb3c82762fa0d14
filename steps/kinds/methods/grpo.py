"""Group relative policy optimisation (arXiv 2402.03300), with the later losses of TRL's trainer."""

from steps.kinds.method import Loss, Method
from steps.kinds.methods.rewards import REWARDS

METHOD = Method(
    name="grpo",
    trainer="steps.finetune.trainers.grpo:build_grpo",
    losses={
        "dapo": Loss(),
        "grpo": Loss(),
        "bnpo": Loss(),
        "dr_grpo": Loss(),
        "cispo": Loss(clips="above"),
        "sapo": Loss(clips="none"),
        "luspo": Loss(level="sequence"),
        "vespo": Loss(clips="none", level="token"),
    },
    reads=frozenset({"loss_type", "scale_rewards", "importance_sampling_level"}),
    **REWARDS,
)
