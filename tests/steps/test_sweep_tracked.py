"""MLflow has one run for a sweep, and those of its trials below it."""

import logging

import pytest
from mlflow import MlflowClient
from sweep_results import grid_sweep

from steps.artifacts import new_artifact
from steps.params.registration import TrackingParams
from steps.params.settings import TrialSettings
from steps.sweep.reading import read_sweep
from steps.sweep.result import Result
from steps.sweep.tracked import PARENT, tell_trial, track_sweep
from steps.sweep.trial import key_of
from steps.tracking.store import experiment_id

TRIALS = 4
SHARED = {"lora_alpha": 16, "optim": "adamw_torch", "experiment_name": "rates", "hub_token": "", "lora_r": 999}


@pytest.fixture
def client(mlflow_store, monkeypatch) -> MlflowClient:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return MlflowClient(tracking_uri=mlflow_store)


def sweep_with_runs(client: MlflowClient, **changes) -> dict:
    """Facts of a sweep whose trials have runs, of which the last one failed and is only found by its tag."""
    facts = grid_sweep(**changes)
    facts["trials"] = facts["trials"][:TRIALS]
    experiment = experiment_id(client, "rates", client.tracking_uri)
    for trial in facts["trials"]:
        trial["key"] = f"key{trial['number']}"
        run = client.create_run(experiment, tags={"finetune_trial": trial["key"]}, run_name="chat_completion finetune")
        client.log_param(run.info.run_id, "training.learning_rate", trial["parameters"]["learning_rate"])
        trial["mlflow_run_id"] = run.info.run_id
    last = facts["trials"][-1]
    last |= {"state": "failed", "score": None, "metrics": {}, "reason": "loss=nan", "mlflow_run_id": ""}
    best = max((one for one in facts["trials"] if one["score"] is not None), key=lambda one: one["score"])
    for trial in facts["trials"]:
        trial["best"] = trial is best
    return {**facts, "best": best["number"]}


def runs(client: MlflowClient) -> tuple[list, list]:
    experiment = client.get_experiment_by_name("rates").experiment_id
    found = client.search_runs([experiment])
    return [one for one in found if PARENT not in one.data.tags], [one for one in found if PARENT in one.data.tags]


@pytest.mark.parametrize("name", ["rates", 'it\'s "odd" 100 % ü'])
def test_a_sweep_has_one_run_and_a_child_for_each_trial(client, mlflow_store, tmp_path, name):
    facts = sweep_with_runs(client, name=name)
    page = tmp_path / "report.html"
    page.write_text("<html>")
    effective = {**SHARED, "mlflow_server_uri": mlflow_store}
    for final in (None, {"gate": {"passed": True, "reason": "Passed: it is better."}, "registered": None}):
        track_sweep(effective, {**facts, "final": final}, page)  # before and after the best trial is evaluated
    (parent,), children = runs(client)
    assert parent.data.tags["mlflow.runName"] == f"sweep {name}"
    assert (parent.info.status, parent.data.tags["best_trial"]) == ("FINISHED", str(facts["best"]))
    assert parent.data.tags["gate.reason"] == "Passed: it is better."
    assert {key: parent.data.params[key] for key in ("lora_alpha", "optim")} == {
        "lora_alpha": "16",
        "optim": SHARED["optim"],
    }
    assert not {"lora_r", "hub_token"} & set(parent.data.params), (
        "what differs is of the trials; what is empty of nobody"
    )
    assert [one.path for one in client.list_artifacts(parent.info.run_id)] == ["report.html"]
    told = {one.data.tags["trial"]: one for one in children}
    assert sorted(told) == [str(number) for number in range(TRIALS)]
    for trial in facts["trials"]:
        child = told[str(trial["number"])]
        assert child.data.tags[PARENT] == parent.info.run_id
        assert child.data.tags["mlflow.runName"] == f"trial {trial['number']}"
        assert child.data.tags["trial.state"] == trial["state"]
        assert child.data.params["lora_r"] == str(trial["parameters"]["lora_r"]), "a column"
        assert "learning_rate" not in child.data.params, "the training has told it"
        assert {key: child.data.metrics[f"validation.{key}"] for key in trial["metrics"]} == trial["metrics"]
    assert told[str(TRIALS - 1)].data.tags["trial.reason"] == "loss=nan"
    read = read_sweep(name, [mlflow_store])
    assert [trial["number"] for trial in read["trials"]] == list(range(TRIALS)), "found by the name as it was given"


def test_trials_of_a_name_with_quotes_are_found_while_the_sweep_runs(client, mlflow_store):
    tracking = TrackingParams(mlflow_server_uri=mlflow_store, experiment_name="rates")
    for number in range(2):
        tell_trial(tracking, "it's odd", Result(number, "failed", key=f"key{number}", reason="no memory"))
    found = read_sweep("it's odd", [mlflow_store])["trials"]
    assert [(trial["number"], trial["state"]) for trial in found] == [(0, "failed"), (1, "failed")]


def test_trials_of_other_data_have_other_runs(tmp_path):
    settings = TrialSettings.model_construct(number=0, sweep="rates")
    places = [tmp_path / name for name in ("model", "data", "other")]
    for place in places:
        with new_artifact(place, "data", {}) as draft:
            (draft / "rows.txt").write_text(place.name)
    model, data, other = places
    assert key_of(settings, model, data) == key_of(settings, model, data)
    assert len({key_of(settings, *one) for one in ((model, data), (model, other), (model, tmp_path / "none"))}) == 3


def test_a_server_that_does_not_answer_costs_a_warning_only(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    facts = {**grid_sweep(), "final": None}
    with caplog.at_level(logging.WARNING):
        track_sweep({"mlflow_server_uri": "http://127.0.0.1:9"}, facts, None)
    assert "the sweep was not sent to MLflow" in caplog.text


def test_nothing_is_sent_where_mlflow_is_switched_off(client, mlflow_store, monkeypatch):
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "TRUE")
    track_sweep({"mlflow_server_uri": mlflow_store}, {**grid_sweep(), "final": None}, None)
    assert len(client.search_experiments()) <= 1
