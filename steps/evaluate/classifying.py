"""Compute the logits of a classifier for the held-out rows."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModelForSequenceClassification

from steps.evaluate.held_out import arrays
from steps.generation.batching import batches
from steps.generation.loading import load, too_large
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


@torch.inference_mode()
def logits_of(folder: Path, tokens: pa.Table, settings: EvaluationSettings) -> np.ndarray:
    """Return the logits of all rows, (rows, classes), float64; rows of similar length form a batch.

    Raises OutOfResources if the GPU's memory is too small.
    """
    started = time.monotonic()
    inputs = {name: arrays(tokens[name]) for name in ("input_ids", "token_type_ids") if name in tokens.column_names}
    lengths = [len(ids) for ids in inputs["input_ids"]]
    try:
        model = load(AutoModelForSequenceClassification, folder, settings.precision)
        logits = np.zeros((len(lengths), model.config.num_labels))
        for group in batches(lengths, settings.batch_size * max(lengths)):
            logits[group] = model(**_padded(model, inputs, group)).logits.double().cpu().numpy()
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    log.info("measured %s on %d rows in %.1f s", folder.name, len(lengths), time.monotonic() - started)
    return logits


def _padded(model: Any, inputs: dict[str, list[np.ndarray]], group: list[int]) -> dict[str, torch.Tensor]:
    """Stack rows with right padding and the attention mask."""
    shape = (len(group), len(inputs["input_ids"][group[0]]))
    fill = {"input_ids": model.config.pad_token_id or 0, "token_type_ids": 0}
    stacked = {name: np.full(shape, fill[name], np.int64) for name in inputs}
    mask = np.zeros(shape, np.int64)
    for line, row in enumerate(group):
        length = len(inputs["input_ids"][row])
        mask[line, :length] = 1
        for name, values in inputs.items():
            stacked[name][line, :length] = values[row]
    return {
        name: torch.from_numpy(value).to(model.device) for name, value in (stacked | {"attention_mask": mask}).items()
    }
