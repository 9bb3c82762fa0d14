"""What a trial leaves: its state, its metrics on the validation rows, its curve."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from steps.params.sweep import RESULT_BYTES, Ended

KIND = "trial"  # of its artifact
FILE = "trial.json"
MOST_POINTS = 24  # of a curve in the text that KFP passes on
DIGITS = 6  # of its numbers


@dataclass(frozen=True)
class Result:
    """The result of one trial; trial.json has these fields."""

    number: int
    state: Ended
    metrics: dict[str, float] = field(default_factory=dict)
    """On the validation rows."""
    score: float | None = None
    """The metric that selects the best trial; None for a trial without result."""
    curve: list[list[float]] = field(default_factory=list)
    """Steps and values of the evaluations during training."""
    curve_metric: str = ""
    steps: int | None = None
    max_steps: int | None = None
    seconds: float | None = None
    """Time of the training."""
    tokens: int | None = None
    """Tokens that were trained on."""
    trained: int | None = None
    """Number of trained parameters."""
    mlflow_run_id: str = ""
    key: str = ""
    """The tag by which the trial's MLflow run is found."""
    reason: str = ""
    """Why it failed or was stopped, in one sentence."""
    error: dict[str, Any] | None = None
    """The error of a trial that failed (`StepError.as_json`)."""
    tuned_uri: str = ""
    """Where the tuned model is, outside of this task."""

    def as_text(self, most: int = RESULT_BYTES) -> str:
        """Return compact JSON of at most `most` bytes inside a list, because KFP passes it on as a parameter.

        It has few points of the curve, then only the metric that counts, then a short reason, as far as needed.
        """
        error = {key: self.error[key] for key in ("code", "class", "step")} if self.error else None
        told = {**asdict(self), "error": error, "metrics": _rounded(self.metrics), "curve": _rounded(self.curve)}
        told = {key: value for key, value in told.items() if value not in (None, "", [], {})}
        for points in (MOST_POINTS, 16, 12, 8, 5, 2):
            told["curve"] = thinned(told.get("curve", []), points)
            if len(json.dumps(text := _compact(told))) <= most:
                return text
        for name in ("curve", "curve_metric", "metrics"):
            told.pop(name, None)
            if len(json.dumps(text := _compact(told))) <= most:
                return text
        while told.get("reason") and len(json.dumps(text)) > most:
            told["reason"] = told["reason"][: -max(1, len(told["reason"]) // 10)]
            text = _compact(told)
        return text


def _compact(told: dict[str, Any]) -> str:
    """Return JSON without the values that are empty."""
    return json.dumps({key: value for key, value in told.items() if value not in ("", [])}, ensure_ascii=False,
                      allow_nan=False, separators=(",", ":"))  # fmt: skip


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def result_in(folder: Path) -> Result:
    """Read the result in an artifact of a trial."""
    return Result(**json.loads((folder / FILE).read_text(encoding="utf-8")))


def thinned(curve: list[list[float]], most: int) -> list[list[float]]:
    """Return at most so many points, among them the first and the last."""
    if len(curve) <= most:
        return curve
    places = sorted({round(place * (len(curve) - 1) / (most - 1)) for place in range(most)})
    return [curve[place] for place in places]


def finite(points: Iterable[tuple[Any, Any]]) -> list[list[float]]:
    """Return the points whose values are finite numbers."""
    return [[step, value] for step, value in points if isinstance(value, int | float) and math.isfinite(value)]
