"""The JSON files that the steps left for a reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PLAN = "plan.json"
HISTORY = "history.json"
METRICS = "metrics.json"
PREDICTIONS = "predictions.parquet"


def read(file: Path) -> dict[str, Any]:
    """Read one; a missing file is empty, so that a page can say so."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
