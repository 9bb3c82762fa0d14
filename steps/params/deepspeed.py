"""DeepSpeed ZeRO."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator

from steps.errors import Problem, nearest, shown
from steps.params.choice import switch
from steps.params.group import Group

BUILT_IN = ("true", "")


class DeepSpeedParams(Group):
    """Where optimizer states, gradients and weights are stored during training."""

    apply_deepspeed: bool = False
    """Train with DeepSpeed ZeRO; the built-in configurations keep optimizer states in CPU memory."""

    deepspeed: Annotated[str, BeforeValidator(switch)] = "true"
    """DeepSpeed configuration file (JSON, a path or URI); true uses the built-in one of deepspeed_stage."""

    deepspeed_stage: Literal["2", "3"] = "2"
    """ZeRO stage of the built-in configuration: 2 offloads the optimizer to the CPU, 3 the weights as well."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse settings that DeepSpeed does not support."""
        if not self.apply_deepspeed:
            return
        if getattr(self, "auto_find_batch_size", False):
            yield Problem("PARAM-E0271", "auto_find_batch_size", "true with apply_deepspeed=true", "one of the two",
                          "set auto_find_batch_size=false and per_device_train_batch_size=1, or apply_deepspeed=false",
                          why="DeepSpeed's batch size is fixed when it starts")  # fmt: skip
        if self.deepspeed == "false":
            yield Problem("PARAM-E0272", self.named("deepspeed"), "false with apply_deepspeed=true", "true, or a file",
                          "leave it out, or set apply_deepspeed=false")  # fmt: skip
        meant = "" if set("./") & set(self.deepspeed) else nearest(self.deepspeed.lower(), ("true", "false"))
        if meant and self.deepspeed not in (*BUILT_IN, "false"):
            yield Problem("PARAM-E0273", self.named("deepspeed"), shown(self.deepspeed), "true, or a file", meant)
