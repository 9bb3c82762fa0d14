"""Base class of the pipelines in which a model learns from rewards of what it writes."""

from steps.params.metrics import RewardMetrics
from steps.params.pipeline import SupervisedParameters
from steps.params.reward_training import RewardTraining
from steps.params.rewards import RewardParams


class RewardedParameters(RewardParams, RewardTraining, RewardMetrics, SupervisedParameters):
    """Parameters of every training with rewards."""

    @property
    def learning_method(self) -> str:
        """The training method."""
        return self.method

    @property
    def uses_verl(self) -> bool:
        """Whether verl trains, in place of this project's trainers."""
        return False
