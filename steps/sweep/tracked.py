"""One MLflow run for a sweep, with the runs of its trials below it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.params.registration import TrackingParams
from steps.redaction import masked
from steps.sweep.result import Result
from steps.tracking.database import make_place
from steps.tracking.facts import add_facts
from steps.tracking.store import MOST_PARAMETERS, experiment_id
from steps.tracking.target import be_patient, is_off, target_of

log = logging.getLogger("finetune")

KEY = "finetune_trial"  # tag of the run of a trial
OF_SWEEP, NUMBER = "sweep", "trial"  # tags of the run of a trial, from its beginning
RESULT = "trial.result"  # tag with the text that the trial returned
LONGEST = 5000  # characters of a tag, in servers of MLflow 2
PARENT, NAME = "mlflow.parentRunId", "mlflow.runName"
SWEEP = "finetune_sweep"  # tag of the sweep's run


def as_tag(sweep: str) -> str:
    """Return the name of a sweep as its tags have it: MLflow's filters have no way to write a single quote."""
    return sweep.replace("'", "")


def track_sweep(effective: dict[str, Any], facts: dict[str, Any], report: Path | None) -> None:
    """Create or complete the sweep's run; an error is only logged, because no result depends on it."""
    names = TrackingParams.model_fields
    tracking = TrackingParams(**{name: value for name, value in effective.items() if name in names})

    def send(client: Any, experiment: str) -> None:
        parent = _parent(client, experiment, facts)
        for trial in facts["trials"]:
            _put_below(client, experiment, parent, trial, facts["name"])
        shared = {name: value for name, value in effective.items() if name not in facts["varied"]}
        _describe(client, parent, facts, shared, report)

    _sent(tracking, send)


def tell_trial(tracking: TrackingParams, sweep: str, result: Result) -> None:
    """Add state, metrics and result of a trial to the run of its training, for those who look while the sweep runs.

    A trial that failed before its training began gets a run, so that every trial has one.
    """
    text = result.as_text()
    tags = {OF_SWEEP: as_tag(sweep), NUMBER: str(result.number), "trial.state": result.state,
            "trial.reason": result.reason, RESULT: text if len(text) <= LONGEST else ""}  # fmt: skip

    def send(client: Any, experiment: str) -> None:
        run_id = result.mlflow_run_id or _found(client, experiment, result.key)
        if not run_id:
            run = client.create_run(experiment, tags={KEY: result.key}, run_name=f"trial {result.number}")
            run_id = run.info.run_id
            client.set_terminated(run_id, "FAILED")
        _tell(client, run_id, tags, result.metrics)

    _sent(tracking, send)


def _sent(tracking: TrackingParams, send: Callable[[Any, str], None]) -> None:
    """Call `send` with a client and the experiment; an error is only logged, because no result depends on it."""
    target = target_of(tracking)
    if is_off() or not target.uri:
        return
    be_patient()
    try:
        make_place(target.uri)
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=target.uri)
        send(client, experiment_id(client, target.experiment, target.uri))
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("WARNING the sweep was not sent to MLflow at %s: %s", masked(target.uri), str(masked(first))[:200])


def _tell(client: Any, run_id: str, tags: dict[str, str], metrics: dict[str, float]) -> None:
    for tag, text in tags.items():
        if text:
            client.set_tag(run_id, tag, text)
    for name, value in metrics.items():
        client.log_metric(run_id, f"validation.{name}", value)


def _parent(client: Any, experiment: str, facts: dict[str, Any]) -> str:
    """Return the run of this sweep, which an earlier process may have created."""
    name = as_tag(facts["name"])
    if found := client.search_runs([experiment], f"tags.{SWEEP} = '{name}'", max_results=1):
        return str(found[0].info.run_id)
    tags = {SWEEP: name, "pipeline": facts["pipeline"]}
    return str(client.create_run(experiment, tags=tags, run_name=f"sweep {facts['name']}").info.run_id)


def _put_below(client: Any, experiment: str, parent: str, trial: dict[str, Any], sweep: str) -> None:
    run_id = trial.get("mlflow_run_id") or _found(client, experiment, trial.get("key", ""))
    if not run_id:
        return
    from mlflow.entities import Param

    tags = {PARENT: parent, OF_SWEEP: as_tag(sweep), NUMBER: str(trial["number"]), "trial.state": trial["state"],
            NAME: f"trial {trial['number']}",
            "trial.reason": trial.get("reason", "")}  # fmt: skip
    data = client.get_run(run_id).data
    told = trial.get("metrics") or {}
    new = {name: value for name, value in told.items() if f"validation.{name}" not in data.metrics}
    _tell(client, run_id, {name: value for name, value in tags.items() if data.tags.get(name) != value}, new)
    known = {name.rsplit(".", 1)[-1] for name in data.params}
    parameters = [Param(name, str(value)) for name, value in trial["parameters"].items() if name not in known]
    for start in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(run_id, params=parameters[start : start + MOST_PARAMETERS])


def _found(client: Any, experiment: str, key: str) -> str:
    """Return the run of a trial that failed or was stopped, by its tag; empty if there is none."""
    if not key:
        return ""
    found = client.search_runs([experiment], f"tags.{KEY} = '{key}'", max_results=1,
                               order_by=["attributes.start_time DESC"])  # fmt: skip
    return str(found[0].info.run_id) if found else ""


def _describe(client: Any, parent: str, facts: dict[str, Any], shared: dict[str, Any], report: Path | None) -> None:
    """Add the parameters that all trials share, the best trial, the gate's verdict and the page to the sweep's run."""
    best = next((trial for trial in facts["trials"] if trial["best"]), None)
    if best:
        client.log_metric(parent, f"validation.{facts['metric']}", best["score"])
        tags = {"best_trial": str(best["number"]), **{f"best.{key}": str(value)[:500] for key, value in
                                                     best["parameters"].items()}}  # fmt: skip
        for name, value in tags.items():
            client.set_tag(parent, name, value)
    page = report if report and report.is_file() else None
    add_facts(client, parent, shared, (facts["final"] or {}).get("gate") or {}, page)
    client.set_terminated(parent)
