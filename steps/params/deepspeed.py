"""DeepSpeed ZeRO."""

from typing import Literal

from steps.params.group import Group


class DeepSpeedParams(Group):
    """Whether optimizer states and weights are spread over the GPUs."""

    apply_deepspeed: bool = False
    """Train with DeepSpeed ZeRO."""

    deepspeed: str = "true"
    """DeepSpeed configuration file (JSON, a path or URI); true takes the built-in one of deepspeed_stage."""

    deepspeed_stage: Literal["2", "3"] = "2"
    """ZeRO stage of the built-in configuration: 2 spreads optimizer and gradients, 3 the weights too."""
