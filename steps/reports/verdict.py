"""The head of the run report: the verdict of the gate, and the change of its metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.facts import METRICS, PLAN, read
from steps.reports.sections.evaluation import metric_rows, reason


def verdict(plan: Path, evaluation: Path) -> dict[str, Any]:
    """Read the gate of `evaluation`, and pipeline and model of `plan`; either may be missing."""
    planned, measured = read(plan / PLAN), read(evaluation / METRICS)
    gate = measured.get("gate") or {}
    headline = None
    if gate.get("metric"):
        name = gate["metric"]
        headline = metric_rows({name: gate.get("base")}, {name: gate.get("tuned")})[0]
    effective = planned.get("effective") or {}
    source: dict[str, Any] = next((entry for entry in planned.get("sources") or () if entry.get("what") == "model"), {})
    return {
        "passed": gate.get("passed"),
        "reason": reason(gate),
        "headline": headline,
        "rows": measured.get("rows"),
        "pipeline": planned.get("pipeline"),
        "model": source.get("uri"),
        "registers": effective.get("register_tuned_model"),
    }
