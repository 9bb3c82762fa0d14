"""The baseline for a model without weights: all tokens have the same probability."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from steps.artifacts import has_manifest, read_manifest
from steps.evaluate.held_out import IGNORED, HeldOut, Measured


def vocabulary_of_new(folder: Path) -> int:
    """Return the vocabulary size if an artifact is a model with new weights; 0 for any other."""
    if not has_manifest(folder):
        return 0
    facts = read_manifest(folder, "model").facts
    return int(facts["vocab_size"]) if facts.get("weights") == "new" else 0


def guess(held_out: HeldOut, vocabulary: int) -> Measured:
    """Return the result of a uniform distribution: ln(vocabulary) nats for each supervised token, and no answers."""
    supervised = np.array([(labels[1:] != IGNORED).sum() for labels in held_out.labels], dtype=np.int64)
    return Measured(supervised * math.log(vocabulary), supervised, [None] * len(held_out))
