"""REINFORCE leave-one-out (arXiv 2402.14740): the baseline of a completion is the mean reward of the others."""

from steps.kinds.method import Method
from steps.kinds.methods.rewards import REWARDS

METHOD = Method(
    name="rloo",
    trainer="steps.finetune.trainers.grpo:build_rloo",
    losses={},
    reads=frozenset({"normalize_advantages"}),
    **REWARDS,
)
