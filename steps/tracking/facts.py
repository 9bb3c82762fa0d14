"""Add to the run of a training what is known only after it: the effective parameters, the verdict, the report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from steps.redaction import masked
from steps.tracking.connecting import connect
from steps.tracking.store import MOST_PARAMETERS

log = logging.getLogger("finetune")

LONGEST = 6000  # MLflow's limit for the value of a parameter
REPORT = "report.html"


def add_facts(client: Any, run_id: str, effective: dict[str, Any], gate: dict[str, Any], report: Path | None) -> None:
    """Record the parameters that the training did not, the verdict as tags, and the report as an artifact.

    A run that is used again keeps its first parameters, which MLflow does not change, and gets the latest verdict.
    Raises what MLflow raises.
    """
    from mlflow.entities import Param, RunTag

    known = client.get_run(run_id).data.params
    names = {name.rsplit(".", 1)[-1] for name in known}
    given = {name: value for name, value in effective.items() if name not in names and value not in ("", None, {}, [])}
    new = [Param(name, _text(value)) for name, value in sorted(given.items())]
    for start in range(0, len(new), MOST_PARAMETERS):
        client.log_batch(run_id, params=new[start : start + MOST_PARAMETERS])
    verdict = {"gate.passed": gate.get("passed"), "gate.reason": gate.get("reason")}
    client.log_batch(run_id, tags=[RunTag(name, _text(value)) for name, value in verdict.items() if value is not None])
    if report:
        client.log_artifact(run_id, str(report))


def tell_facts(uri: str, run_id: str, effective: dict[str, Any], gate: dict[str, Any], report: Path | None) -> None:
    """Do the same with a client of its own; an error is only logged, because the run's result does not depend on it."""
    try:
        add_facts(connect(uri), run_id, effective, gate, report)
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            return  # the training was tracked on another server
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("WARNING the report was not sent to MLflow at %s: %s", masked(uri), str(masked(first))[:200])


def _text(value: Any) -> str:
    return str(masked(value))[:LONGEST]
