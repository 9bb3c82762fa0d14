"""A batch by its total, and a learning rate that follows it."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group

BY_HAND = ("per_device_train_batch_size", "gradient_accumulation_steps")


class BatchParams(Group):
    """How many rows stand behind an optimizer step, whatever the number of devices."""

    total_train_batch_size: int = Field(0, ge=0)
    """Sequences behind each optimizer step over all devices; 0 leaves it to per_device_train_batch_size and its kin."""

    max_per_device_train_batch_size: int = Field(0, ge=0)
    """Most sequences per device and forward pass for total_train_batch_size; the rest is accumulated."""

    lr_multiplier: float = Field(1.0, gt=0)
    """Multiplies learning_rate."""

    lr_batch_size_scaling: Literal["none", "sqrt", "linear"] = "none"
    """Multiply learning_rate by the sequences behind a step, or by their square root."""

    def conflicts(self) -> Iterator[Problem]:
        """One way to say how large a batch is."""
        asked: dict[str, Any] = {name: getattr(self, name, None) for name in BY_HAND}
        total, most = self.total_train_batch_size, self.max_per_device_train_batch_size
        if total and not most:
            yield Problem("PARAM-E0216", "max_per_device_train_batch_size", f"0 with total_train_batch_size={total}",
                          "the most that one device can take", "set it")  # fmt: skip
        if most and not total:
            yield Problem("PARAM-E0216", "max_per_device_train_batch_size", f"{most} without total_train_batch_size",
                          "both", "set total_train_batch_size, or per_device_train_batch_size instead")  # fmt: skip
        for name in (name for name in BY_HAND if total and asked[name] not in (None, 1)):
            yield Problem("PARAM-E0217", name, f"{asked[name]} with total_train_batch_size={total}",
                          "one way to say how large a batch is", "leave one of the two out")  # fmt: skip
