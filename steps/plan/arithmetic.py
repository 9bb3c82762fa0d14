"""Numbers that follow from the batch parameters, such as optimizer steps, as a table of the plan."""

from __future__ import annotations

import math
from typing import Any

from steps.params.pipeline import SupervisedParameters
from steps.params.preference import PreferenceMethod

# (validation rows given, test rows given) → share of the rows left for training (the seed's ratios).
TRAIN_SHARE = {(True, True): 1.0, (True, False): 0.8, (False, True): 0.8, (False, False): 0.8}


def table(parameters: SupervisedParameters, rows: int | None, max_length: int) -> list[dict[str, Any]]:
    """Return rows of {name, value, how}; `rows` is the number of given training rows, None if it is not known yet."""
    devices = parameters.devices
    step = parameters.sequences_per_step
    how = (
        f"{parameters.per_device_train_batch_size} per device × {devices} device"
        f"{'s' if devices > 1 else ''} × {parameters.gradient_accumulation_steps} accumulated"
    )
    lines: list[dict[str, Any]] = [
        {"name": "longest sequence", "value": max_length, "how": "tokens; max_seq_length or the model's limit"},
        {"name": "sequences per optimizer step", "value": step, "how": how},
    ]
    if rows is None or parameters.packing:
        known = "packing sets the number of sequences" if parameters.packing else "the rows are not counted yet"
        return [*lines, {"name": "optimizer steps", "value": "known after prepare_data", "how": known}]
    share = TRAIN_SHARE[bool(parameters.validation_file_path), bool(parameters.test_file_path)]
    unpaired = 2 if isinstance(parameters, PreferenceMethod) and parameters.unpairs else 1
    train = round(rows * share) * unpaired
    per_epoch = max(1, math.ceil(train / step))
    total = parameters.max_steps if parameters.max_steps > 0 else math.ceil(per_epoch * parameters.num_train_epochs)
    rule = (
        "max_steps" if parameters.max_steps > 0 else f"{per_epoch} per epoch × {parameters.num_train_epochs:g} epochs"
    )
    told = ", two from each pair" if unpaired == 2 else ""
    return [
        *lines,
        {"name": "training rows", "value": train, "how": f"{rows} given, {share:.0%} used for training{told}"},
        {"name": "optimizer steps", "value": total, "how": rule},
    ]
