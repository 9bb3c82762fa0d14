"""The JSON files that the sections read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLAN = "plan.json"
HISTORY = "history.json"
COMPLETIONS = "completions.parquet"  # beside it, of a training with rewards; also in its checkpoints
METRICS = "metrics.json"
SWEEP = "sweep.json"
FIRST_SHARD = "generations_00000.parquet"
PREDICTIONS = "predictions.parquet"
# In the evaluation artifact: facts of its inputs, so that later steps need not load models and data to tell them. Keys:
# base and data (facts of their manifests), training (history.json), completions (some of a training with rewards).
INPUTS = "inputs.json"


def read(file: Path) -> dict[str, Any]:
    """Read a JSON file; a missing file gives an empty dict, so that the page can report it."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
