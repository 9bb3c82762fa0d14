"""Measures a model with an encoder and a decoder: how likely the right answers are to it, and what it answers."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM

from steps.evaluate.batching import batches
from steps.evaluate.held_out import IGNORED, HeldOut, Measured
from steps.evaluate.losses import LOGITS_BYTES, cross_entropy
from steps.evaluate.transformers_engine import load, too_large
from steps.params.settings import EvaluationSettings
from steps.seq2seq import answering, load_tokenizer

log = logging.getLogger("finetune")


@torch.inference_mode()
def measure(folder: Path, held_out: HeldOut, settings: EvaluationSettings) -> Measured:
    """Compute one model's losses and answers; raises OutOfResources when the GPU's memory is too small."""
    started = time.monotonic()
    try:
        model = load(AutoModelForSeq2SeqLM, folder, settings.precision)
        nll, supervised = _row_losses(model, held_out, settings.batch_size)
        texts = _answers(model, load_tokenizer(folder), held_out, settings)
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    log.info("measured %s on %d rows in %.1f s", folder.name, len(held_out), time.monotonic() - started)
    return Measured(nll, supervised, list(texts))


def _row_losses(model: Any, held_out: HeldOut, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the negative log-likelihood (nats, float64) of each row's answer, and count its tokens."""
    nll, supervised = np.zeros(len(held_out)), np.zeros(len(held_out), dtype=np.int64)
    lengths = [len(ids) + len(labels) for ids, labels in zip(held_out.input_ids, held_out.labels, strict=True)]
    bytes_per_token = model.config.vocab_size * model.dtype.itemsize
    for group in batches(lengths, min(batch_size * max(lengths), LOGITS_BYTES // bytes_per_token)):
        read, mask = _padded([held_out.input_ids[row] for row in group], 0)
        labels, _ = _padded([held_out.labels[row] for row in group], IGNORED)
        labels = labels.to(model.device)
        # The model shifts the labels itself: kinds differ in what an answer starts from.
        logits = model(input_ids=read.to(model.device), attention_mask=mask.to(model.device), labels=labels).logits
        nll[group] = cross_entropy(logits, labels).sum(dim=1, dtype=torch.float64).cpu().numpy()
        supervised[group] = (labels != IGNORED).sum(dim=1).cpu().numpy()
    return nll, supervised


def _answers(model: Any, tokenizer: Any, held_out: HeldOut, settings: EvaluationSettings) -> list[str]:
    """Write the answer to every row, in the given order; rows of like length together."""
    longest = settings.evaluation.evaluation_max_new_tokens
    how = answering(model, tokenizer, longest, settings.num_beams, held_out.opening)
    lengths = [len(ids) + how.max_new_tokens for ids in held_out.input_ids]
    texts = [""] * len(held_out)
    for group in batches(lengths, settings.batch_size * max(lengths)):
        read, mask = (part.to(model.device) for part in _padded([held_out.input_ids[row] for row in group], 0))
        output = model.generate(input_ids=read, attention_mask=mask, generation_config=how)
        for row, text in zip(group, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
            texts[row] = text
    return texts


def _padded(rows: list[np.ndarray], filling: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Stack rows, padded on the right, and the mask that tells padding apart."""
    shape = (len(rows), max(map(len, rows)))
    values, mask = np.full(shape, filling, np.int64), np.zeros(shape, np.int64)
    for line, row in enumerate(rows):
        values[line, : len(row)], mask[line, : len(row)] = row, 1
    return torch.from_numpy(values), torch.from_numpy(mask)
