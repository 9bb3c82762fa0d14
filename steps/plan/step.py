"""The step `plan`: check everything, decide everything and report it before anything costs money."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps import wire
from steps.artifacts import new_artifact, read_manifest, write_durably
from steps.params.group import Group
from steps.params.pipeline import PipelineParameters
from steps.params.pipelines import is_sweep, model_of
from steps.params.pipelines.adapter_tools import AdapterToolsParameters
from steps.params.pipelines.batch_inference import BatchInferenceParameters
from steps.params.planned import AdapterToolsPlan, BatchInferencePlan, Plan, SweepPlan
from steps.plan.hardware import Hardware
from steps.plan.summary import as_text
from steps.plan.sweep_summary import sweep_as_text
from steps.running import PLANNED

log = logging.getLogger("finetune")


@dataclass(frozen=True)
class Planned:
    """The result of a planner."""

    summary: dict[str, Any]
    settings: dict[str, Group]
    """Settings of each later step, by the name of the plan's output."""
    hardware: dict[str, Hardware]
    switches: dict[str, bool] = field(default_factory=dict)
    """Whether tasks that are not always wanted run, by the name of the plan's output."""
    more: dict[str, Any] = field(default_factory=dict)
    """Other outputs of the plan, by name."""


def plan(
    pipeline: str, arguments: dict[str, Any], plan: Path, report: Path
) -> Plan | AdapterToolsPlan | BatchInferencePlan | SweepPlan:
    """Check the parameters of a pipeline or of a sweep, resolve its sources and write the plan.

    `plan` becomes an artifact folder with plan.json, `report` an HTML page. Raises a StepError of the first kind of
    error found, with every problem of that kind.
    """
    model = model_of(pipeline) or PipelineParameters
    outputs: Any = model.planned
    if made := os.environ.get(PLANNED):
        return outputs(**_take(Path(made), plan, report))
    planned = _planner(pipeline, model)(pipeline, arguments)
    with new_artifact(plan, "plan") as draft:
        text = json.dumps(planned.summary, indent=1, ensure_ascii=False)
        (draft / "plan.json").write_text(text, encoding="utf-8")
    from steps.reports import write_plan_report

    write_plan_report(plan, report)
    log.info(_told(planned.summary))
    values = {name: wire.dump(value.short()) for name, value in planned.settings.items()}
    return outputs(**values, **planned.switches, **planned.more, **_hardware_fields(outputs._fields, planned.hardware))


def _take(made: Path, plan: Path, report: Path) -> dict[str, Any]:
    """Copy the plan that the local runner made (pipelines/runs.py) and return its outputs."""
    read_manifest(made / "plan", "plan")
    with new_artifact(plan, "plan") as draft:
        shutil.copyfile(made / "plan" / "plan.json", draft / "plan.json")
    write_durably(report, (made / "report.html").read_bytes())
    log.info(_told(json.loads((plan / "plan.json").read_text("utf-8"))))
    return dict(json.loads((made / "outputs.json").read_text("utf-8")))


def _told(summary: dict[str, Any]) -> str:
    return sweep_as_text(summary) if "sweep" in summary else as_text(summary)


def _planner(pipeline: str, model: type[PipelineParameters]) -> Callable[[str, dict[str, Any]], Planned]:
    if is_sweep(pipeline):
        return _trials
    if issubclass(model, AdapterToolsParameters):
        return _adapter_work
    return _inference if issubclass(model, BatchInferenceParameters) else _training


def _training(pipeline: str, arguments: dict[str, Any]) -> Planned:
    from steps.plan.deciding import decide
    from steps.plan.settings import settings_of
    from steps.plan.summary import summary_of

    decisions = decide(pipeline, arguments)
    switches = {"registers": decisions.parameters.register_tuned_model}
    return Planned(summary_of(decisions), settings_of(decisions), decisions.hardware, switches)


def _trials(pipeline: str, arguments: dict[str, Any]) -> Planned:
    from steps.plan.sweep_summary import summary_of_sweep
    from steps.plan.sweeps import as_texts, data_texts, decide_sweep, lanes_of

    sweep = decide_sweep(pipeline, arguments)
    more = {
        "models": wire.dump(as_texts(sweep.models)),
        "data": wire.dump(data_texts(sweep.data)),
        "lanes": lanes_of(sweep),
    }
    switches = {"registers": sweep.trials[0].decisions.parameters.register_tuned_model}
    return Planned(summary_of_sweep(sweep), {}, sweep.hardware, switches, more)


def _adapter_work(pipeline: str, arguments: dict[str, Any]) -> Planned:
    from steps.plan.adapter_tools import decide, settings_of, summary_of

    decisions = decide(pipeline, arguments)
    return Planned(summary_of(decisions), settings_of(decisions), decisions.hardware)


def _inference(pipeline: str, arguments: dict[str, Any]) -> Planned:
    from steps.plan.batch_inference import decide, settings_of, summary_of

    decisions = decide(pipeline, arguments)
    return Planned(summary_of(decisions), settings_of(decisions), decisions.hardware)


def _hardware_fields(fields: tuple[str, ...], hardware: dict[str, Hardware]) -> dict[str, Any]:
    """Assign the hardware of each task group to the plan's outputs."""
    return {
        field: getattr(hardware[field.split("_", 1)[0]], field.split("_", 1)[1])
        for field in fields
        if field.split("_", 1)[0] in hardware
    }
