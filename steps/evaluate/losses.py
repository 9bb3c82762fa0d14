"""Losses of a causal model on the held-out rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from steps.evaluate.held_out import IGNORED, HeldOut
from steps.generation.batching import batches

LOGITS_BYTES = 2**30  # of one batch; with a large vocabulary, logits need more memory than the model's layers
POSITIONS_AT_ONCE = 2048  # positions whose logits are converted to float32 together


def row_losses(model: Any, held_out: HeldOut, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the negative log-likelihood (nats, float64) of each row's supervised tokens, and count them.

    A token is predicted from the previous ones, so the first token of a row is never counted.
    """
    nll, supervised = np.zeros(len(held_out)), np.zeros(len(held_out), dtype=np.int64)
    lengths = [len(ids) for ids in held_out.input_ids]
    bytes_per_token = model.config.get_text_config().vocab_size * model.dtype.itemsize
    budget = min(batch_size * max(lengths), LOGITS_BYTES // bytes_per_token)
    for group in batches(lengths, budget):
        inputs = {name: value.to(model.device) for name, value in _padded(held_out, group).items()}
        labels = inputs.pop("labels")[:, 1:]
        # From the end, because the logits of a learned prompt, if the model has one, come first.
        logits = model(**inputs, use_cache=False).logits[:, -labels.shape[1] - 1 : -1]
        losses = cross_entropy(logits, labels)
        nll[group] = losses.sum(dim=1, dtype=torch.float64).cpu().numpy()
        supervised[group] = (labels != IGNORED).sum(dim=1).cpu().numpy()
    return nll, supervised


def _padded(held_out: HeldOut, group: list[int]) -> dict[str, torch.Tensor]:
    """Stack rows with right padding, which does not affect a causal model's logits before it."""
    shape = (len(group), len(held_out.input_ids[group[0]]))
    ids, mask, labels = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    for line, row in enumerate(group):
        length = len(held_out.input_ids[row])
        ids[line, :length] = held_out.input_ids[row]
        labels[line, :length] = held_out.labels[row]
        mask[line, :length] = 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask),
            "labels": torch.from_numpy(labels)}  # fmt: skip


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the negative log-likelihood of each label, float32, 0 for IGNORED; (rows, positions) like `labels`."""
    losses = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
    places = (labels != IGNORED).nonzero(as_tuple=True)
    for start in range(0, len(places[0]), POSITIONS_AT_ONCE):
        some = tuple(index[start : start + POSITIONS_AT_ONCE] for index in places)
        losses[some] = torch.nn.functional.cross_entropy(logits[some].float(), labels[some], reduction="none")
    return losses
