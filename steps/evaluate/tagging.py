"""Compute the logits of a tagger for the first token of each word of the held-out sentences."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import AutoModelForTokenClassification

from steps.evaluate.held_out import IGNORED, arrays
from steps.generation.batching import batches
from steps.generation.loading import load, too_large
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


@torch.inference_mode()
def logits_of_words(folder: Path, tokens: pa.Table, settings: EvaluationSettings) -> list[np.ndarray]:
    """Return the logits of the labelled tokens of every row, (words, tags), float64.

    Raises OutOfResources if the GPU's memory is too small.
    """
    started = time.monotonic()
    ids, labels = arrays(tokens["input_ids"]), arrays(tokens["labels"])
    lengths = [len(row) for row in ids]
    logits: list[np.ndarray] = [np.zeros(0)] * len(ids)
    try:
        model = load(AutoModelForTokenClassification, folder, settings.precision)
        for group in batches(lengths, settings.batch_size * max(lengths)):
            read = np.full((len(group), lengths[group[0]]), model.config.pad_token_id or 0, np.int64)
            mask = np.zeros_like(read)
            for line, row in enumerate(group):
                read[line, : lengths[row]], mask[line, : lengths[row]] = ids[row], 1
            inputs = {"input_ids": torch.from_numpy(read), "attention_mask": torch.from_numpy(mask)}
            said = model(**{name: value.to(model.device) for name, value in inputs.items()}).logits.double().cpu()
            for line, row in enumerate(group):
                logits[row] = said[line, : lengths[row]].numpy()[labels[row] != IGNORED]
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    log.info("measured %s on %d rows in %.1f s", folder.name, len(ids), time.monotonic() - started)
    return logits
