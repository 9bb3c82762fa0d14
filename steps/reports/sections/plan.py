"""The plan section: tasks, sources and settings of a run, and the trials of a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import defaults
from steps.reports.facts import PLAN, read
from steps.reports.page import Section
from steps.reports.sweep_facts import trial_rows

READS = "plan"

TRIALS_SHOWN = 12  # above the fold


def section(plan: Path) -> Section:
    """Read plan.json of the folder `plan`."""
    facts = read(plan / PLAN)
    if not facts:
        return Section("plan", "Plan", missing=f"The plan folder has no {PLAN}.")
    chosen, others = _parameters(facts)
    told = {**facts, "chosen": chosen, "others": others, "memory": _memory(facts), "sweep": _sweep(facts)}
    return Section("plan", "Plan", told)


def _sweep(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the table of the trials of a sweep; None for the plan of a single run."""
    if not (sweep := facts.get("sweep")):
        return None
    of_plan = ("steps", "tokens", "seconds", "cost", "memory_bytes", "adds")
    rows = trial_rows(sweep["trials"], sweep["varied"])
    rows = [{**row, **{name: trial.get(name) for name in of_plan}}
            for row, trial in zip(rows, sweep["trials"], strict=True)]  # fmt: skip
    known = [name for name in of_plan if any(row[name] for row in rows)]
    return {**sweep, "trials": rows, "known": known, "first": TRIALS_SHOWN}


def _parameters(facts: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split the effective parameters into those that differ from their default and the others."""
    model = PARAMETER_MODELS.get(facts.get("pipeline", ""))
    usual = defaults(model) if model else {}
    requested = facts.get("requested") or {}
    translated = {entry.get("parameter") for entry in facts.get("translations") or () if not entry.get("by_user")}
    chosen: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    varied = (facts.get("sweep") or {}).get("varied", ())
    for name, value in (facts.get("effective") or {}).items():
        if name in varied:
            continue
        asked = requested.get(name, value)
        same = asked == value or str(asked).lower() == str(value).lower()  # 2 and 2.0, 16 and "16" are the same value
        row = {"name": name, "value": _as_text(value), "asked": "" if same else _as_text(asked)}
        is_usual = name in usual and (value == usual[name] or name in translated)
        (others if is_usual else chosen).append(row)
    return chosen, others


def _memory(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Return the parts as shares of the needed or, if known and larger, the available memory."""
    memory = facts.get("memory")
    if not memory or not memory.get("needed_bytes"):
        return None
    needed, available = memory["needed_bytes"], memory.get("available_bytes")
    whole = max(needed, available or 0)
    parts = [
        {"name": name, "bytes": size, "share": 100 * size / whole} for name, size in memory.get("parts", {}).items()
    ]
    return {**memory, "parts": parts, "over": available is not None and needed > available}


def _as_text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
