"""What MLflow knows of a sweep that runs somewhere else: the result of each trial, the verdict and the version."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from steps.errors import Outage, Problem, StepError, UserError
from steps.redaction import masked
from steps.sweep.tracked import NUMBER, OF_SWEEP, RESULT, SWEEP, as_tag
from steps.tracking.target import be_patient, store_of

PAGE = 1000
VALIDATION = "validation."
CURVE = "eval_loss"  # the curve of a training that still runs
VERDICT = {"true": True, "false": False}


def read_sweep(name: str, uris: Iterable[str]) -> dict[str, Any]:
    """Return what the first of these servers that knows the sweep has of it: `trials`, `final` and `uri`.

    `trials` and `final` are as in sweep.json, as far as known; without any run of it they are empty, and `uri` is that
    of the last server that answered. Raises Outage if none answers, UserError if none lets us read.
    """
    found: dict[str, Any] = {"trials": [], "final": None, "uri": ""}
    refused: StepError | None = None
    answered = False
    for uri in dict.fromkeys(store_of(uri) for uri in uris if uri):
        try:
            found = {**_read(name, uri), "uri": uri}
        except StepError as error:
            refused = error
            continue
        answered = True
        if found["trials"]:
            return found
    if refused and not answered:
        raise refused
    return found


def _read(name: str, uri: str) -> dict[str, Any]:
    be_patient()
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=uri)
        places = [one.experiment_id for one in client.search_experiments()]
        trials = _trials(client, places, as_tag(name))
        return {"trials": trials, "final": _final(client, places, as_tag(name), trials)}
    except Exception as error:  # MLflow raises those of its server, of requests and of sqlalchemy
        raise _unread(uri, error) from error


def _unread(uri: str, error: Exception) -> StepError:
    from steps.tracking.store import is_refusal

    first = (str(error).splitlines() or [type(error).__name__])[0]
    found, where = str(masked(first))[:200], f"MLflow at {masked(uri)}"
    if is_refusal(error):
        return UserError(Problem("SWEEP-E0213", where, found, "the runs of the sweep",
                                 "give MLFLOW_TRACKING_TOKEN, or user and password, by the environment"))  # fmt: skip
    return Outage(Problem("SWEEP-E0401", where, found, "an answer",
                          "set MLFLOW_TRACKING_URI to an address that this machine can reach"))  # fmt: skip


def _trials(client: Any, places: list[str], name: str) -> list[dict[str, Any]]:
    """Return the trials by number; of several runs of one, such as after a repetition, the newest."""
    if not places:
        return []
    newest: dict[int, Any] = {}
    order, token = ["attributes.start_time ASC"], None
    while True:
        runs = client.search_runs(places, f"tags.{OF_SWEEP} = '{name}'", max_results=PAGE, order_by=order,
                                  page_token=token)  # fmt: skip
        newest |= {int(run.data.tags[NUMBER]): run for run in runs if run.data.tags.get(NUMBER, "").isdecimal()}
        token = runs.token
        if not token:
            return [_trial(client, number, newest[number]) for number in sorted(newest)]


def _trial(client: Any, number: int, run: Any) -> dict[str, Any]:
    tags, metrics = run.data.tags, run.data.metrics
    known: dict[str, Any] = {"number": number, "mlflow_run_id": run.info.run_id}
    if text := tags.get(RESULT):
        return {**json.loads(text), **known}
    state = tags.get("trial.state")
    measured = {key.removeprefix(VALIDATION): value for key, value in metrics.items() if key.startswith(VALIDATION)}
    known |= {"state": state or "running", "reason": tags.get("trial.reason", ""), "metrics": measured}
    if state:
        return known
    points = client.get_metric_history(run.info.run_id, CURVE) if CURVE in metrics else []
    curve = sorted([point.step, point.value] for point in points if math.isfinite(point.value))
    steps = max((int(point[0]) for point in curve), default=None)
    return {**known, "curve": curve, "curve_metric": "validation loss" if curve else "", "steps": steps}


def _final(client: Any, places: list[str], name: str, trials: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return metrics, gate and version of the best trial; None before it was evaluated."""
    parents = client.search_runs(places, f"tags.{SWEEP} = '{name}'", max_results=1) if places else []
    best = parents[0].data.tags.get("best_trial", "") if parents else ""
    chosen = next((trial for trial in trials if str(trial["number"]) == best), None)
    if chosen is None:
        return None
    run = client.get_run(chosen["mlflow_run_id"])
    tags, metrics = run.data.tags, run.data.metrics
    if "gate.passed" not in tags:
        return None
    model, _, version = tags.get("registered_model", "").rpartition("/")
    measured = {which: {key.removeprefix(f"{which}/"): value for key, value in metrics.items()
                        if key.startswith(f"{which}/")} for which in ("base", "tuned")}  # fmt: skip
    gate = {"passed": VERDICT.get(tags["gate.passed"].lower(), False), "reason": tags.get("gate.reason", "")}
    return {"metrics": measured, "gate": gate, "best": int(best),
            "registered": {"name": model, "version": version} if model else None}  # fmt: skip
