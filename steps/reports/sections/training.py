"""The training section: loss, rewards and learning rate over steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.charts import loss_chart, margin_chart, rate_chart
from steps.reports.facts import HISTORY, INPUTS, read
from steps.reports.page import Section
from steps.reports.reward_training import reward_curves, sample_completions

READS = "training"

ROWS_SHOWN = 60
MARGINS = "rewards/margins"


def section(tuned: Path) -> Section:
    """Read history.json of the artifact `tuned`, or what the evaluation artifact tells of it."""
    history = read(tuned / HISTORY) or read(tuned / INPUTS).get("training")
    if not history:
        return Section("training", "Training", missing=f"The tuned model's folder has no {HISTORY}.")
    points, evaluations = history.get("points") or [], history.get("evaluations") or []
    rated = [point for point in points if point.get("learning_rate") is not None]
    facts = {
        **history,
        "points": _spread(points),
        "logged": len(points),
        "evaluations": evaluations,
        "loss_chart": loss_chart(points, evaluations, history.get("best")) if points or evaluations else None,
        "rate_chart": rate_chart(rated) if rated else None,
        "completions": sample_completions(tuned) or read(tuned / INPUTS).get("completions"),
        **reward_curves(points, evaluations, history.get("best")),
        "margin_chart": margin_chart(points, evaluations) if any(MARGINS in point for point in points) else None,
    }
    return Section("training", "Training", facts)


def _spread(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select at most ROWS_SHOWN points at equal distances, including the first and the last."""
    if len(points) <= ROWS_SHOWN:
        return points
    last = len(points) - 1
    return [points[round(place * last / (ROWS_SHOWN - 1))] for place in range(ROWS_SHOWN)]
