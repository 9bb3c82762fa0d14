"""From a total batch to what one device computes at a time, and the learning rate that goes with it."""

from __future__ import annotations

import math

from steps.errors import Problem, UserError
from steps.params.pipeline import SupervisedParameters


def split_total(total: int, devices: int, most: int) -> tuple[int, int]:
    """Give rows per device and accumulated passes: the fewest passes that divide evenly and fit.

    512 over 8 devices of at most 4 → (4, 16); 12 over 1 of at most 5 → (4, 3); 7 over 1 of at most 4 → (1, 7).
    Raises ValueError for a total that the devices cannot share evenly, and for most < 1.
    """
    if most < 1 or total < 1 or total % devices:
        raise ValueError(f"{total} cannot be shared by {devices} devices of at most {most}")
    share = total // devices
    passes = next(number for number in range(1, share + 1) if share % number == 0 and share // number <= most)
    return share // passes, passes


def resolved(parameters: SupervisedParameters) -> SupervisedParameters:
    """Put the batch and the learning rate that follow from the others in their place.

    Raises UserError for a total that the devices cannot share evenly, with the nearest that they can.
    """
    p = parameters
    if total := p.total_train_batch_size:
        devices = p.devices
        if total % devices:
            below = total // devices * devices
            near = f"{below} or {below + devices}" if below else str(devices)
            raise UserError(
                Problem("PLAN-E0315", "total_train_batch_size", f"{total} over {devices} devices", "a multiple of "
                        f"{devices}", f"set it to {near}")
            )  # fmt: skip
        size, passes = split_total(total, devices, p.max_per_device_train_batch_size)
        changes = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": passes,
            "total_train_batch_size": 0,
            "max_per_device_train_batch_size": 0,
        }
        if p.per_device_eval_batch_size == 1:
            changes["per_device_eval_batch_size"] = size
        p = p.model_copy(update=changes)
    rate = p.learning_rate * p.lr_multiplier
    scaling = {"none": 1.0, "sqrt": math.sqrt(p.sequences_per_step), "linear": float(p.sequences_per_step)}
    rate *= scaling[p.lr_batch_size_scaling]
    if rate == p.learning_rate:
        return p
    return p.model_copy(update={"learning_rate": rate, "lr_multiplier": 1.0, "lr_batch_size_scaling": "none"})
