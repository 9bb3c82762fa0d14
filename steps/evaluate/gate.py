"""The gate: decide whether the tuned model may be registered."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steps.errors import Problem, UserError
from steps.params.evaluation import NO_BOUND, EvaluationParams
from steps.params.metrics import direction_of


@dataclass(frozen=True)
class Verdict:
    """The gate's metric, bounds and result; `gate` in metrics.json."""

    metric: str
    base: float
    tuned: float
    min_value: float | None
    """Lowest value that passes; None for no bound."""
    max_value: float | None
    """Highest value that passes; None for no bound."""
    must_beat_base: bool
    passed: bool
    reason: str
    """One sentence."""


def refuse_unmeasurable(gate: EvaluationParams, answered: bool, split: str = "test") -> None:
    """Raise UserError if the gate's metric compares answers and no row has one; called before the evaluation."""
    if not answered and gate.gate_metric not in ("loss", "perplexity"):
        raise UserError(
            Problem("EVAL-E0203", "gate_metric", f"{gate.gate_metric} for {split} rows without a right answer",
                    "loss or perplexity", f"set gate_metric=loss, or use {split} rows that end with an answer")
        )  # fmt: skip


def judge(gate: EvaluationParams, base: dict[str, float], tuned: dict[str, float]) -> Verdict:
    """Compare the tuned model's metric with its bounds and with the base model's; NaN never passes."""
    metric = gate.gate_metric
    low, high = (None if bound == NO_BOUND else bound for bound in (gate.gate_min_value, gate.gate_max_value))
    was, now = base[metric], tuned[metric]
    higher = direction_of(metric)
    better = now > was if higher else now < was
    against = [] if math.isfinite(now) else ["is not a finite number"]
    if low is not None and not now >= low:
        against.append(f"is below gate_min_value {low:g}")
    if high is not None and not now <= high:
        against.append(f"is above gate_max_value {high:g}")
    if gate.gate_must_beat_base and not better:
        against.append(f"does not beat the base model's {_told(was, now)} ({'more' if higher else 'less'} is better)")
    if against:
        reason = f"Not passed: {metric} {_told(now, was)} of the tuned model {' and '.join(against)}."
    else:
        reason = f"Passed: {metric} {_told(now, was)} of the tuned model{_why(gate, low, high, _told(was, now))}."
    return Verdict(metric, was, now, low, high, gate.gate_must_beat_base, not against, reason)


def _why(gate: EvaluationParams, low: float | None, high: float | None, was: str) -> str:
    held = []
    if gate.gate_must_beat_base:
        held.append(f"beats the base model's {was}")
    if low is not None:
        held.append(f"reaches gate_min_value {low:g}")
    if high is not None:
        held.append(f"stays within gate_max_value {high:g}")
    return " " + " and ".join(held) if held else "; no bound was set"


def _told(value: float, other: float) -> str:
    """Format a number with enough digits to differ from the other."""
    return next(
        (text for digits in (4, 6, 9) if (text := f"{value:.{digits}g}") != f"{other:.{digits}g}"), f"{value:g}"
    )
