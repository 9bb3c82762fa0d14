"""Check everything, decide everything, and say so, before anything costs money."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from steps import wire
from steps.artifacts import new_artifact
from steps.params.planned import Plan
from steps.plan.deciding import decide
from steps.plan.hardware import Hardware
from steps.plan.settings import settings_of
from steps.plan.summary import as_text, summary_of

log = logging.getLogger("finetune")


def plan(pipeline: str, arguments: dict[str, Any], plan: Path, report: Path) -> Plan:
    """Check a pipeline's parameters, resolve its sources and write the plan.

    `plan` becomes an artifact folder with plan.json, `report` an HTML page. Raises the StepError of the first kind of
    trouble found, with every problem of that kind.
    """
    decisions = decide(pipeline, arguments)
    settings = settings_of(decisions)
    summary = summary_of(decisions)
    with new_artifact(plan, "plan") as draft:
        text = json.dumps(summary, indent=1, ensure_ascii=False)
        (draft / "plan.json").write_text(text, encoding="utf-8")
    from steps.reports import write_plan_report

    write_plan_report(plan, report)
    log.info(as_text(summary))
    values = {name: wire.dump(value.model_dump(mode="json")) for name, value in settings.items()}
    fields: dict[str, Any] = {**values, **_hardware_fields(decisions.hardware)}
    return Plan(**fields)


def _hardware_fields(hardware: dict[str, Hardware]) -> dict[str, Any]:
    """Spread each group's request over the outputs that Plan declares for it."""
    return {
        field: getattr(hardware[field.split("_", 1)[0]], field.split("_", 1)[1])
        for field in Plan._fields
        if field.split("_", 1)[0] in hardware
    }
