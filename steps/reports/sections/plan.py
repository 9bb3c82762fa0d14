"""The plan section: tasks, sources and settings of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import defaults
from steps.reports.facts import PLAN, read
from steps.reports.page import Section

READS = "plan"


def section(plan: Path) -> Section:
    """Read plan.json of the folder `plan`."""
    facts = read(plan / PLAN)
    if not facts:
        return Section("plan", "Plan", missing=f"The plan folder has no {PLAN}.")
    chosen, others = _parameters(facts)
    return Section("plan", "Plan", {**facts, "chosen": chosen, "others": others, "memory": _memory(facts)})


def _parameters(facts: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split the effective parameters into those that differ from their default and the others."""
    model = PARAMETER_MODELS.get(facts.get("pipeline", ""))
    usual = defaults(model) if model else {}
    requested = facts.get("requested") or {}
    translated = {entry.get("parameter") for entry in facts.get("translations") or () if not entry.get("by_user")}
    chosen: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for name, value in (facts.get("effective") or {}).items():
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
