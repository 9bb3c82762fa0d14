"""What tasks that write a text ask of the model."""

from __future__ import annotations

from collections.abc import Iterator

from steps.errors import Problem
from steps.kinds.recipe import Recipe


def steering_problems(metric: str, recipe: Recipe) -> Iterator[Problem]:
    """Yield why a metric of written texts cannot choose the best checkpoint."""
    if metric != "loss" and not recipe.kind.writes_while_training:
        yield Problem("PLAN-E0312", "metric_for_best_model", f"{metric} with a model without encoder",
                      "loss: such a model writes nothing while it trains",
                      "set metric_for_best_model=loss, or name a model such as T5 or BART")  # fmt: skip
