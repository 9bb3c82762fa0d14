"""Rewards: which ones, how much each counts, and their options."""

import json
import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group
from steps.params.several import COMMAS, JSON


class RewardParams(Group):
    """What judges the completions."""

    reward_funcs: Annotated[str, COMMAS] = Field("accuracy,format", min_length=1)
    """Comma-separated rewards: names of the library (docs/rewards.md), or your functions as file.py:function."""

    reward_weights: Annotated[str, COMMAS] = ""
    """Comma-separated weight of each reward, such as 0.8,0.2; empty weights them equally, 1 each."""

    reward_options: Annotated[str, JSON] = ""
    """Options of the library's rewards by name, as JSON: {"length": {"target": 50}}."""

    reward_timeout_seconds: float = Field(300.0, gt=0)
    """Longest time of one call of your own reward function, for all completions of a batch together."""

    @property
    def rewards(self) -> list[str]:
        """Names of the rewards."""
        return [name.strip() for name in self.reward_funcs.split(",")]

    @property
    def reward_weight_list(self) -> list[float]:
        """Weight of each reward."""
        weights = self.reward_weights.split(",") if self.reward_weights else [1] * len(self.rewards)
        return [float(weight) for weight in weights]

    @property
    def options_by_reward(self) -> dict[str, dict[str, Any]]:
        """Options by name of the reward."""
        return json.loads(self.reward_options) if self.reward_options else {}

    def conflicts(self) -> Iterator[Problem]:
        """Refuse weights that are no numbers, and options that are no object of objects."""
        if self.reward_weights and not _numbers(self.reward_weights):
            yield Problem("PARAM-E0331", "reward_weights", repr(self.reward_weights), "a finite number for each reward",
                          "write numbers separated by commas, such as 0.8,0.2")  # fmt: skip
        if self.reward_options and not _object_of_objects(self.reward_options):
            yield Problem("PARAM-E0332", "reward_options", repr(self.reward_options[:80]),
                          "an object for each reward, as JSON", 'write it as {"length": {"target": 50}}')  # fmt: skip


def _numbers(text: str) -> bool:
    try:
        return all(math.isfinite(float(weight)) for weight in text.split(","))
    except ValueError:
        return False


def _object_of_objects(text: str) -> bool:
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(read, dict) and all(isinstance(options, dict) for options in read.values())
