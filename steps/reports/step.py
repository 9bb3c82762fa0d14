"""The step that writes the run report; needs neither GPU nor torch."""

from __future__ import annotations

from pathlib import Path

from steps.artifacts import read_manifest
from steps.reports import write_run_report
from steps.reports.facts import INPUTS, METRICS, PLAN, read


def report(plan: Path, evaluation: Path, report: Path) -> None:
    """Write one HTML page about a whole run; training and data are told by the evaluation artifact.

    Raises UserError for a folder of another kind, Outage for one that is missing, incomplete or changed.
    """
    for kind, folder in (("plan", plan), ("evaluation", evaluation)):
        read_manifest(folder, kind)
    write_run_report(plan, evaluation, report)
    _tell(plan, evaluation, report)


def _tell(plan: Path, evaluation: Path, report: Path) -> None:
    """Send the report to the training's run, unless register_model will send the one that names the version."""
    # Imported here, because `steps.reports` is also used where pydantic and MLflow are not needed.
    from steps.params.registration import TrackingParams
    from steps.tracking.facts import tell_facts
    from steps.tracking.target import is_off, registry_uri

    effective = read(plan / PLAN).get("effective") or {}
    gate = read(evaluation / METRICS).get("gate") or {}
    run_id = (read(evaluation / INPUTS).get("training") or {}).get("mlflow_run_id")
    if not run_id or is_off() or (gate.get("passed") and effective.get("register_tuned_model")):
        return
    if uri := registry_uri(TrackingParams(mlflow_server_uri=effective.get("mlflow_server_uri") or "")):
        tell_facts(uri, run_id, effective, gate, report)
