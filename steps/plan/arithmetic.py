"""Table of the numbers of rows, batches and steps that follow from the parameters."""

from __future__ import annotations

import math
from typing import Any

from steps.params.data import DataSource
from steps.params.pipeline import SupervisedParameters
from steps.params.preference import PreferenceMethod
from steps.params.splits import SPLITS, split_sizes, train_percent
from steps.plan import generations, verl
from steps.sources.data_sources import description


def table(parameters: SupervisedParameters, rows: int | None, max_length: int) -> list[dict[str, Any]]:
    """Return rows of {name, value, how}; `rows` is the number of given training rows, None if not known yet."""
    prompts, learned = _training_rows(parameters, rows) if rows is not None else (None, "")
    if (p := generations.rewarded(parameters)) is not None:
        return generations.table(p, prompts, learned)
    if (of_verl := verl.asked(parameters)) is not None:
        return verl.table(of_verl, prompts, learned)
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
    train, learned = _training_rows(parameters, rows)
    per_epoch = max(1, math.ceil(train / step))
    total = parameters.max_steps if parameters.max_steps > 0 else math.ceil(per_epoch * parameters.num_train_epochs)
    rule = (
        "max_steps" if parameters.max_steps > 0 else f"{per_epoch} per epoch × {parameters.num_train_epochs:g} epochs"
    )
    return [
        *lines,
        {"name": "training rows", "value": train, "how": learned},
        {"name": "optimizer steps", "value": total, "how": rule},
    ]


def _training_rows(parameters: SupervisedParameters, rows: int) -> tuple[int, str]:
    """Return the number of rows that remain for training, and what they are of the given ones."""
    source = DataSource.of(parameters)
    held_out = [split for split in SPLITS[1:] if description(split, source)]
    unpaired = 2 if isinstance(parameters, PreferenceMethod) and parameters.unpairs else 1
    learned = f"{rows} given, {train_percent(held_out)}% of them for training"
    learned += ", two from each pair" if unpaired == 2 else ""
    learned += "; a few more if rows repeat" if len(held_out) < 2 else ""  # equal rows stay in one split
    return split_sizes(rows, held_out)["train"] * unpaired, learned
