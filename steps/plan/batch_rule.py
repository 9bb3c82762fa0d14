"""Derive the batch size per device and the learning rate from the total batch size."""

from __future__ import annotations

import math

from steps.errors import Problem, UserError
from steps.params.batch import split_total
from steps.params.pipeline import SupervisedParameters


def resolved(parameters: SupervisedParameters) -> SupervisedParameters:
    """Return the parameters with batch sizes and learning rate computed from the others.

    Raises UserError if the total is not a multiple of the devices; the message names the nearest valid totals.
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
