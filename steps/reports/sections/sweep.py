"""The sweep section: the best trial, the table of all trials, and what the parameters did to the metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.facts import SWEEP, read
from steps.reports.page import Section
from steps.reports.sections.evaluation import METRICS_SHOWN, gate_first, metric_rows
from steps.reports.sweep_charts import SweepCharts, points_of
from steps.reports.sweep_facts import (
    CAUSES_SHOWN,
    METRICS_IN_TABLE,
    badge,
    best_number,
    causes,
    counts,
    gate_words,
    is_measured,
    other_metrics,
    ranked,
    registered_words,
    trial_rows,
    varied_of,
)

READS = "sweep"

ROWS_SHOWN = 10  # trials above the fold
STEPS_SHOWN = 40  # rows of the table behind the curves


def section(sweep: Path) -> Section:
    """Read sweep.json of the folder `sweep`; the trials of a running sweep may lack most of their facts."""
    facts = read(sweep / SWEEP)
    if not facts:
        return Section("sweep", "Sweep", missing=f"The sweep's folder has no {SWEEP}.")
    trials, varied, best = ranked(facts), varied_of(facts), best_number(facts)
    found, others = counts(trials), other_metrics(facts)
    word, look = badge(facts, found)
    why = causes(trials)
    told = {
        **{key: facts.get(key) for key in ("pipeline", "metric", "search", "pruner")},
        "up": facts.get("higher_is_better", True),
        "badge": word,
        "look": look,
        "counts": found,
        "total": len(trials),
        "varied": varied,
        "trials": trial_rows(trials, varied),
        "best": best,
        "first": ROWS_SHOWN,
        "metrics": others if len(others) <= METRICS_IN_TABLE else [],
        "all_metrics": others if len(others) > METRICS_IN_TABLE else [],
        "causes": why[:CAUSES_SHOWN],
        "causes_left": len(why) - CAUSES_SHOWN,
        "importance": _importance(facts),
        "cost": facts.get("cost") or {},
        "final": _final(facts),
        **_charts(facts, trials, varied, best),
    }
    return Section("sweep", f"Sweep {facts.get('name') or ''}".strip(), told)


def _final(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the evaluation of the best trial on the test rows, in the form of the evaluation section."""
    final = facts.get("final")
    if not final:
        return None
    metrics, gate = final.get("metrics") or {}, final.get("gate") or {}
    rows = gate_first(metric_rows(metrics.get("base") or {}, metrics.get("tuned") or {}), {"gate": gate})
    name = gate.get("metric")
    headline = metric_rows({name: gate.get("base")}, {name: gate.get("tuned")})[0] if name else None
    if headline and gate.get("base") is None and gate.get("tuned") is None:
        headline = next((row for row in rows if row["name"] == name), None)
    return {
        "gate": gate, "metrics": rows, "first": METRICS_SHOWN, "headline": headline, "reason": gate_words(final),
        "registered": registered_words(final),
    }  # fmt: skip


def _charts(facts: dict[str, Any], trials: list[dict[str, Any]], varied: list[str], best: int | None) -> dict[str, Any]:
    charts = SweepCharts(facts, trials, varied, best)
    measured = any(is_measured(trial) for trial in trials)
    metric = str(facts.get("metric") or "")
    with_curves = [trial for trial in trials if points_of(trial)]
    names = [trial.get("curve_metric") or "value" for trial in with_curves]
    for trial, name in zip(with_curves, names, strict=True):
        trial["curve_metric"] = name
    # A curve of validation losses shows the same metric as a score by loss, both on the validation rows.
    name = max(dict.fromkeys(names), key=names.count) if names else ""
    curve_is_metric = name.removeprefix("validation ").replace(" ", "_") == metric
    curves = [trial for trial in with_curves if trial["curve_metric"] == name]
    return {
        "measured": measured,
        "others": any(is_measured(trial) and trial.get("number") != best for trial in trials),
        "colours": charts.low != charts.high,
        "worst_score": charts.low if charts.up else charts.high,
        "best_score": charts.high if charts.up else charts.low,
        "dashed": any(trial.get("state") in ("failed", "pruned") for trial in trials),
        "parallel": charts.parallel() if measured and varied else None,
        "scatters": charts.scatters(curve_is_metric) if measured and varied else {},
        "crosses": curve_is_metric and any(trial.get("state") == "pruned" for trial in curves),
        "curves": charts.curves(name) if curves else None,
        "curve_metric": name,
        "curves_left": len(with_curves) - len(curves),
        "curve_states": {trial.get("state") for trial in curves},
        "curve_best": any(trial.get("number") == best for trial in curves),
        "curve_table": _curve_table(curves),
    }


def _curve_table(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a row for each step and a column for each trial, with at most STEPS_SHOWN rows at equal distances."""
    values = [dict(points_of(trial)) for trial in trials]
    steps = sorted({step for curve in values for step in curve})
    last = len(steps) - 1
    shown = steps if len(steps) <= STEPS_SHOWN else [
        steps[round(place * last / (STEPS_SHOWN - 1))] for place in range(STEPS_SHOWN)
    ]  # fmt: skip
    return {
        "trials": [trial.get("number") for trial in trials],
        "rows": [(step, [curve.get(step) for curve in values]) for step in shown],
        "steps": len(steps),
    }


def _importance(facts: dict[str, Any]) -> list[dict[str, Any]]:
    found = [(name, share) for name, share in (facts.get("importance") or {}).items() if share is not None]
    largest = max((share for _, share in found), default=0) or 1
    return [
        {"name": name, "share": share, "length": 100 * share / largest}
        for name, share in sorted(found, key=lambda pair: -pair[1])
    ]
