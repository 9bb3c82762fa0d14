"""Compute losses and answers of an encoder-decoder model."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM

from steps.evaluate.held_out import IGNORED, HeldOut, Measured
from steps.evaluate.losses import LOGITS_BYTES, cross_entropy
from steps.generation.batching import batches
from steps.generation.encoder_decoders import answering, answers, padded
from steps.generation.loading import load, too_large
from steps.models.seq2seq import load_tokenizer
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


@torch.inference_mode()
def measure(folder: Path, held_out: HeldOut, settings: EvaluationSettings) -> Measured:
    """Compute one model's losses and answers; raises OutOfResources if the GPU's memory is too small."""
    started = time.monotonic()
    try:
        model = load(AutoModelForSeq2SeqLM, folder, settings.precision)
        nll, supervised = _row_losses(model, held_out, settings.batch_size)
        tokenizer = load_tokenizer(folder)
        longest = settings.evaluation.evaluation_max_new_tokens
        how = answering(model, tokenizer, longest, settings.num_beams, held_out.opening)
        texts = answers(model, tokenizer, held_out.input_ids, how=how, batch_size=settings.batch_size)
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    log.info("measured %s on %d rows in %.1f s", folder.name, len(held_out), time.monotonic() - started)
    return Measured(nll, supervised, list(texts))


def _row_losses(model: Any, held_out: HeldOut, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the negative log-likelihood (nats, float64) of each row's answer, and count its tokens."""
    nll, supervised = np.zeros(len(held_out)), np.zeros(len(held_out), dtype=np.int64)
    lengths = [len(ids) + len(labels) for ids, labels in zip(held_out.input_ids, held_out.labels, strict=True)]
    bytes_per_token = model.config.vocab_size * model.dtype.itemsize

    def tensor(part: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(part).to(model.device)

    for group in batches(lengths, min(batch_size * max(lengths), LOGITS_BYTES // bytes_per_token)):
        read, mask = (tensor(part) for part in padded([held_out.input_ids[row] for row in group], 0))
        labels = tensor(padded([held_out.labels[row] for row in group], IGNORED)[0])
        # The model shifts the labels itself, because model types differ in the first decoder token.
        logits = model(input_ids=read, attention_mask=mask, labels=labels).logits
        nll[group] = cross_entropy(logits, labels).sum(dim=1, dtype=torch.float64).cpu().numpy()
        supervised[group] = (labels != IGNORED).sum(dim=1).cpu().numpy()
    return nll, supervised
