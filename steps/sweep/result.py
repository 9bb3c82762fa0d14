"""What a trial leaves: its state, its metrics on the validation rows, its curve."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["finished", "failed", "pruned"]
KIND = "trial"  # of its artifact
FILE = "trial.json"
MODEL, DATA = "model-{}", "data-{}"  # folders of what trials share, by place
MOST_POINTS = 24  # of a curve in the text that KFP passes on


@dataclass(frozen=True)
class Result:
    """The result of one trial; trial.json has these fields."""

    number: int
    state: State
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

    def as_text(self) -> str:
        """Return compact JSON, with few points of the curve, because KFP passes it on as a parameter."""
        told = {**asdict(self), "curve": thinned(self.curve, MOST_POINTS)}
        if self.error:
            told["error"] = {key: self.error[key] for key in ("code", "class", "step")}
        return json.dumps({key: value for key, value in told.items() if value not in (None, "", [], {})},
                          ensure_ascii=False, allow_nan=False, separators=(",", ":"))  # fmt: skip


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
