"""Compute the start and end logits of a model for the windows of the held-out questions."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModelForQuestionAnswering

from steps.evaluate.held_out import arrays
from steps.generation.batching import batches
from steps.generation.loading import load, too_large
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


@torch.inference_mode()
def logits_of_windows(
    folder: Path, windows: pa.Table, settings: EvaluationSettings
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return a start and an end logit per token for every window, float64.

    Raises OutOfResources if the GPU's memory is too small.
    """
    started = time.monotonic()
    names = [name for name in ("input_ids", "token_type_ids") if name in windows.column_names]
    columns = {name: arrays(windows[name]) for name in names}
    lengths = [len(ids) for ids in columns["input_ids"]]
    starts, ends = ([np.zeros(0)] * len(lengths) for _ in range(2))
    try:
        model = load(AutoModelForQuestionAnswering, folder, settings.precision)
        for group in batches(lengths, settings.batch_size * max(lengths)):
            shape = (len(group), lengths[group[0]])
            fill = {"input_ids": model.config.pad_token_id or 0, "token_type_ids": 0}
            inputs = {name: np.full(shape, fill[name], np.int64) for name in names}
            inputs["attention_mask"] = np.zeros(shape, np.int64)
            for line, row in enumerate(group):
                inputs["attention_mask"][line, : lengths[row]] = 1
                for name in names:
                    inputs[name][line, : lengths[row]] = columns[name][row]
            said = model(**{name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()})
            for logits, kept in ((said.start_logits, starts), (said.end_logits, ends)):
                for line, values in zip(group, logits.double().cpu().numpy(), strict=True):
                    kept[line] = values[: lengths[line]]
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    log.info("measured %s on %d windows in %.1f s", folder.name, len(lengths), time.monotonic() - started)
    return starts, ends
