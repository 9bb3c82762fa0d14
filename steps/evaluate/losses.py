"""How well a model predicts the held-out rows, token by token."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from steps.evaluate.held_out import IGNORED, HeldOut
from steps.generation.batching import batches

LOGITS_BYTES = 2**30  # of one batch; a large vocabulary needs more memory for its logits than for the model's layers
POSITIONS_AT_ONCE = 2048  # positions whose logits are turned into float32 together


def row_losses(model: Any, held_out: HeldOut, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Sum the negative log-likelihood (nats, float64) of each row's supervised tokens, and count them.

    Every token is predicted from the ones before it, so the first token of a row is never counted.
    """
    nll, supervised = np.zeros(len(held_out)), np.zeros(len(held_out), dtype=np.int64)
    lengths = [len(ids) for ids in held_out.input_ids]
    bytes_per_token = model.config.get_text_config().vocab_size * model.dtype.itemsize
    budget = min(batch_size * max(lengths), LOGITS_BYTES // bytes_per_token)
    for group in batches(lengths, budget):
        inputs = {name: value.to(model.device) for name, value in _padded(held_out, group).items()}
        labels = inputs.pop("labels")[:, 1:]
        # The last ones: those of a learned prompt, where the model has one, come first.
        logits = model(**inputs, use_cache=False).logits[:, -labels.shape[1] - 1 : -1]
        losses = cross_entropy(logits, labels)
        nll[group] = losses.sum(dim=1, dtype=torch.float64).cpu().numpy()
        supervised[group] = (labels != IGNORED).sum(dim=1).cpu().numpy()
    return nll, supervised


def _padded(held_out: HeldOut, group: list[int]) -> dict[str, torch.Tensor]:
    """Stack rows, padded on the right: a causal model does not see what comes after a token."""
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
    """Negative log-likelihood of each label in float32, 0 where it is IGNORED; (rows, positions) like `labels`."""
    losses = torch.zeros(labels.shape, dtype=torch.float32, device=labels.device)
    places = (labels != IGNORED).nonzero(as_tuple=True)
    for start in range(0, len(places[0]), POSITIONS_AT_ONCE):
        some = tuple(index[start : start + POSITIONS_AT_ONCE] for index in places)
        losses[some] = torch.nn.functional.cross_entropy(logits[some].float(), labels[some], reduction="none")
    return losses
