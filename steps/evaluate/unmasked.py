"""Masked language models: loss and accuracy of the masked tokens.

Both models read the same rows with the same masked tokens (`steps/prepare_data/write/masked.py`). `perplexity` is the
exponential of the mean loss of the masked tokens; it is not a perplexity of whole texts, and not comparable with that
of a decoder.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from steps.errors import Problem, UserError
from steps.evaluate.comparison import Comparison
from steps.evaluate.guessing import vocabulary_of_new
from steps.evaluate.held_out import IGNORED, arrays, first_rows
from steps.params.settings import EvaluationSettings

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class PutBack:
    """The results of one model on the masked tokens; arrays have one entry for each row."""

    nll: np.ndarray
    """Sum of the negative log-likelihood of the row's masked tokens, in nats."""
    right: np.ndarray
    """Number of them that are the model's most probable token."""


def compare(settings: EvaluationSettings, base: Path, tuned: Path, data: Path) -> Comparison:
    """Evaluate both models on the masked tokens of the held-out rows. Raises as `evaluate`."""
    rows, tokens = first_rows(settings, data, ["input_ids", "labels"])
    labels = arrays(tokens["labels"])
    hidden = np.array([(row != IGNORED).sum() for row in labels])
    if not hidden.sum():
        raise UserError(
            Problem("EVAL-E0202", f"{settings.split}_file_path", f"{len(labels)} {settings.split} rows, none of which "
                    "has a masked token", "texts with tokens that can be masked",
                    f"use {settings.split} rows with text")
        )  # fmt: skip
    ids = arrays(tokens["input_ids"])
    if vocabulary := vocabulary_of_new(base):
        before = PutBack(hidden * math.log(vocabulary), hidden / vocabulary)
    else:
        before = _put_back(base, ids, labels, settings)
    after = before if tuned == base else _put_back(tuned, ids, labels, settings)
    scores = {name: _scores(one, hidden) for name, one in (("base", before), ("tuned", after))}
    return Comparison(scores, _predictions(rows, hidden, before, after))


def _scores(one: PutBack, hidden: np.ndarray) -> dict[str, float]:
    loss = float(one.nll.sum() / hidden.sum())
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "masked_accuracy": float(one.right.sum() / hidden.sum()),
    }


def _put_back(folder: Path, ids: list[np.ndarray], labels: list[np.ndarray], settings: EvaluationSettings) -> PutBack:
    """Compute one model's results on all rows. Raises OutOfResources if the GPU's memory is too small."""
    import torch
    from transformers import AutoModelForMaskedLM

    from steps.generation.batching import batches
    from steps.generation.loading import load, too_large

    started = time.monotonic()
    nll, right = np.zeros(len(ids)), np.zeros(len(ids))
    lengths = [len(row) for row in ids]
    try:
        model = load(AutoModelForMaskedLM, folder, settings.precision)
        for group in batches(lengths, settings.batch_size * max(lengths)):
            read, mask, wanted = (torch.from_numpy(part).to(model.device) for part in _padded(ids, labels, group))
            with torch.inference_mode():
                logits = model(input_ids=read, attention_mask=mask).logits
            line, place = (wanted != IGNORED).nonzero(as_tuple=True)
            chosen, truth = logits[line, place].float(), wanted[line, place]
            losses = torch.nn.functional.cross_entropy(chosen, truth, reduction="none").double()
            rows = np.array(group)[line.cpu().numpy()]
            np.add.at(nll, rows, losses.cpu().numpy())
            np.add.at(right, rows, (chosen.argmax(dim=1) == truth).double().cpu().numpy())
    except torch.OutOfMemoryError as error:
        raise too_large(folder, settings.batch_size) from error
    log.info("measured %s on %d rows in %.1f s", folder.name, len(ids), time.monotonic() - started)
    return PutBack(nll, right)


def _padded(
    ids: list[np.ndarray], labels: list[np.ndarray], group: list[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stack rows with right padding: ids, attention mask, labels."""
    shape = (len(group), max(len(ids[row]) for row in group))
    read, mask, wanted = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    for line, row in enumerate(group):
        length = len(ids[row])
        read[line, :length], mask[line, :length], wanted[line, :length] = ids[row], 1, labels[row]
    return read, mask, wanted


def _predictions(rows: pa.Table, hidden: np.ndarray, before: PutBack, after: PutBack) -> pa.Table:
    """Return one row for each held-out row, with the columns of generated text; only the losses have values there."""
    nothing = pa.nulls(len(rows), pa.string())
    unknown = pa.nulls(len(rows), pa.bool_())

    def mean(one: PutBack) -> pa.Array:
        pairs = zip(one.nll.tolist(), hidden.tolist(), strict=True)
        return pa.array([nll / count if count else None for nll, count in pairs], pa.float64())

    return pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int64()),
            "prompt": nothing, "reference": nothing, "base": nothing, "tuned": nothing,
            "base_exact": unknown, "tuned_exact": unknown,
            "base_loss": mean(before), "tuned_loss": mean(after),
            "hidden": pa.array(hidden.tolist(), pa.int64()),
            "base_right": pa.array(before.right.tolist(), pa.float64()),
            "tuned_right": pa.array(after.right.tolist(), pa.float64()),
        }
    )  # fmt: skip
