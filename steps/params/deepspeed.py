"""DeepSpeed ZeRO."""

from collections.abc import Iterator
from typing import Literal

from steps.errors import Problem
from steps.params.group import Group

BUILT_IN = ("true", "")


class DeepSpeedParams(Group):
    """Where optimizer states, gradients and weights lie while the model trains."""

    apply_deepspeed: bool = False
    """Train with DeepSpeed ZeRO; its built-in configurations keep the optimizer's states in the CPU's memory."""

    deepspeed: str = "true"
    """DeepSpeed configuration file (JSON, a path or URI); true takes the built-in one of deepspeed_stage."""

    deepspeed_stage: Literal["2", "3"] = "2"
    """ZeRO stage of the built-in configuration: 2 moves the optimizer off the GPU, 3 the weights too."""

    def conflicts(self) -> Iterator[Problem]:
        """What DeepSpeed is told when it starts cannot change afterwards."""
        if not self.apply_deepspeed:
            return
        if getattr(self, "auto_find_batch_size", False):
            yield Problem("PARAM-E0271", "auto_find_batch_size", "true with apply_deepspeed=true", "one of the two",
                          "set auto_find_batch_size=false and per_device_train_batch_size=1, or apply_deepspeed=false",
                          why="DeepSpeed is set up for one batch size")  # fmt: skip
        if self.deepspeed == "false":
            yield Problem("PARAM-E0272", "deepspeed", "false with apply_deepspeed=true", "true, or a file",
                          "leave it out, or set apply_deepspeed=false")  # fmt: skip
