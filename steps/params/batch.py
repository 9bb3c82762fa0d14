"""Total batch size, and scaling of the learning rate with it."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from steps.errors import Problem
from steps.params.group import Group

BY_HAND = ("per_device_train_batch_size", "gradient_accumulation_steps")


class BatchParams(Group):
    """Batch size per optimizer step, independent of the number of devices."""

    total_train_batch_size: int = Field(0, ge=0)
    """Sequences per optimizer step over all devices; 0 uses the per-device batch size and accumulation steps."""

    max_per_device_train_batch_size: int = Field(0, ge=0)
    """With total_train_batch_size: maximum sequences per device and forward pass; the rest is accumulated."""

    lr_multiplier: float = Field(1.0, gt=0)
    """Factor applied to learning_rate."""

    lr_batch_size_scaling: Literal["none", "sqrt", "linear"] = "none"
    """Multiply learning_rate by the sequences per optimizer step (linear) or by their square root (sqrt)."""

    def conflicts(self) -> Iterator[Problem]:
        """Refuse a batch size given in two ways, or only half."""
        asked: dict[str, Any] = {name: getattr(self, name, None) for name in BY_HAND}
        fields = type(self).model_fields
        usual = {name: (None, 1, fields[name].default if name in fields else None) for name in BY_HAND}
        total, most = self.total_train_batch_size, self.max_per_device_train_batch_size
        if total and not most:
            yield Problem("PARAM-E0216", "max_per_device_train_batch_size", f"0 with total_train_batch_size={total}",
                          "the maximum for one device", "set it")  # fmt: skip
        if most and not total:
            yield Problem("PARAM-E0216", "max_per_device_train_batch_size", f"{most} without total_train_batch_size",
                          "both", "set total_train_batch_size, or per_device_train_batch_size instead")  # fmt: skip
        for name in (name for name in BY_HAND if total and asked[name] not in usual[name]):
            yield Problem("PARAM-E0217", name, f"{asked[name]} with total_train_batch_size={total}",
                          "only one way to set the batch size", "leave one of the two out")  # fmt: skip


def split_total(total: int, devices: int, most: int) -> tuple[int, int]:
    """Return rows per device and accumulation steps: the fewest steps that divide evenly and fit.

    512 over 8 devices of at most 4 → (4, 16); 12 over 1 of at most 5 → (4, 3); 7 over 1 of at most 4 → (1, 7).
    Raises ValueError if the total is not a multiple of the devices, or most < 1.
    """
    if most < 1 or total < 1 or total % devices:
        raise ValueError(f"a total of {total} cannot be split over {devices} devices with at most {most} rows each")
    share = total // devices
    passes = next(number for number in range(1, share + 1) if share % number == 0 and share // number <= most)
    return share // passes, passes
