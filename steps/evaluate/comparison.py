"""The result of an evaluator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Comparison:
    """Metrics and predictions of base and tuned model on the same held-out rows."""

    scores: dict[str, dict[str, float]]
    """base and tuned → metric → value; the gate reads them."""
    predictions: pa.Table
    """One row for each test row."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further content of metrics.json, for the report: JSON values."""
