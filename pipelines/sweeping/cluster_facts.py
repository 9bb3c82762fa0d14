"""What is known of a sweep on a cluster: its trials and its run from KFP, states and numbers from MLflow."""

from __future__ import annotations

import os
from typing import Any

from pipelines.sweeping.search import Search
from pipelines.sweeping.submission import GOES_ON, described_in, goes_on, has_ended, inputs_of, value_of
from steps.errors import StepError
from steps.params.metrics import direction_of
from steps.params.registration import TRACKING_VARIABLES
from steps.params.sweep import ENDED
from steps.running import load

MLFLOW = TRACKING_VARIABLES[0]
NO_SERVER = f"states and scores of the trials are in MLflow: set mlflow_server_uri, or {MLFLOW} here"


def facts_of(made: Any, address: str, needs_mlflow: bool = False) -> dict[str, Any]:
    """Return the content of sweep.json, as far as it is known, of the newest run of a sweep.

    It also has `address`, `total`, and `note`, a sentence if states and numbers are unknown. With `needs_mlflow`, the
    error of MLflow is raised.
    """
    inputs = inputs_of(made)
    trials = inputs.get("trials") or []
    known, note = _known(inputs, needs_mlflow)
    results = {trial["number"]: trial for trial in known["trials"]}
    named = list(dict.fromkeys(name for trial in trials for name in trial))
    lines = [{"number": number, "parameters": trial} for number, trial in enumerate(trials)]
    search = inputs.get("sweep_search") or {}
    sweep = {"name": value_of(inputs, "sweep_name", made.display_name), "metric": _metric(inputs),
             "pruner": value_of(inputs, "pruner", "none"), "varied": named, "search": search, "trials": lines,
             "preparations": 1}  # fmt: skip
    told = [_told(made, number, results.get(number), bool(note)) for number in range(len(trials))]
    about = {"total": _total(inputs, len(trials)), "address": address, "note": note,
             "final": None if goes_on(made) else known["final"]}  # fmt: skip
    planned = {"pipeline": search.get("pipeline", ""), "sweep": sweep}
    return dict(load("sweep-facts")(planned, told, about))


def _known(inputs: dict[str, Any], needed: bool) -> tuple[dict[str, Any], str]:
    """Return what MLflow has of the sweep, and a sentence if nothing can be known."""
    nothing: dict[str, Any] = {"trials": [], "final": None}
    uris = [uri for uri in (os.environ.get(MLFLOW, ""), value_of(inputs, "mlflow_server_uri")) if uri]
    name = value_of(inputs, "sweep_name")
    if not uris or not name:
        return nothing, NO_SERVER if name else "the trials cannot be found in MLflow: the run has no sweep_name"
    try:
        return load("read-sweep")(name, uris), ""
    except StepError as error:
        if needed:
            raise
        problem = error.problems[0]
        return nothing, f"states and scores are unknown: {problem.where}: {problem.found}. {problem.fix}"


def _told(made: Any, number: int, known: dict[str, Any] | None, blind: bool) -> dict[str, Any]:
    """Return a trial as trial.json has it, with the state that follows from MLflow and from the run."""
    known = known or {}
    if known.get("state") == "finished":  # a result too long for a tag of MLflow has no score, but metrics
        return {"score": (known.get("metrics") or {}).get(_metric(inputs_of(made))), **known}
    if known.get("state") in ENDED:
        return known
    state, reason = _state(str(made.state), has_ended(made), bool(known), blind)
    return {**known, "number": number, "state": state, "reason": reason}


def _state(run: str, ended: bool, begun: bool, blind: bool) -> tuple[str, str]:
    """Return state and reason of a trial without a result."""
    if blind:
        return "unknown", ""
    if not ended:
        return ("running" if begun else "waiting"), ""
    if run == "SUCCEEDED":
        return "failed", "MLflow has no result of it"
    if run == "CANCELED":
        return "waiting", "it was stopped" if begun else ""
    return ("failed", "its task ended without a result") if begun else ("waiting", "")


def _metric(inputs: dict[str, Any]) -> str:
    """Return the metric that selects the best trial; the loss if the run was sent with an unknown one."""
    asked = str(value_of(inputs, "sweep_metric") or value_of(inputs, "gate_metric", "loss"))
    try:
        direction_of(asked)
    except KeyError:
        return "loss"
    return asked


def _total(inputs: dict[str, Any], known: int) -> int:
    """Return the number of trials that there will be."""
    search = inputs.get("sweep_search") or {}
    return Search(described_in(inputs)).total if search.get(GOES_ON) else known
