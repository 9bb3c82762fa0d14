"""The result of an evaluator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from steps.kinds import load
from steps.params.settings import EvaluationSettings
from steps.scoring.scored import choose_metrics


@dataclass(frozen=True)
class Comparison:
    """Metrics and predictions of base and tuned model on the same held-out rows."""

    scores: dict[str, dict[str, float]]
    """base and tuned → metric → value; the gate reads them."""
    predictions: pa.Table
    """One row for each held-out row."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further content of metrics.json, for the report: JSON values."""

    def chosen(self, settings: EvaluationSettings) -> dict[str, dict[str, float]]:
        """Return the scores to report: the metrics of evaluation_config, the loss and the gate's metric."""
        wanted = choose_metrics(self.scores["tuned"], settings.options.metrics, settings.split)
        kept = {"loss", settings.evaluation.gate_metric, *wanted}
        return {
            which: {name: value for name, value in all_.items() if name in kept} for which, all_ in self.scores.items()
        }


def evaluator(settings: EvaluationSettings) -> Callable[..., Comparison]:
    """Return the `compare` of the kind of model and the training method."""
    return load(settings.recipe.evaluator)
