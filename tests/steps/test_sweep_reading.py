"""What MLflow knows of the trials of a sweep, as their tasks tell it."""

import pytest

from steps.errors import Outage
from steps.params.registration import TrackingParams
from steps.running import load
from steps.sweep.result import Result
from steps.sweep.tracked import tell_trial


@pytest.fixture
def tracking(mlflow_store, monkeypatch) -> TrackingParams:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return TrackingParams(mlflow_server_uri=mlflow_store)


def read(tracking: TrackingParams, name: str = "rates") -> list[dict]:
    return load("read-sweep")(name, [tracking.mlflow_server_uri])["trials"]


def test_a_trial_that_failed_before_its_training_has_a_run_of_its_own(tracking):
    failed = Result(2, "failed", key="a", reason="2 training sequences", error={"code": 2, "class": "x", "step": "y"})
    for _ in range(2):  # a repetition of the task
        tell_trial(tracking, "rates", failed)
    (told,) = read(tracking)
    assert (told["number"], told["state"], told["reason"]) == (2, "failed", "2 training sequences")
    assert told["error"]["code"] == 2
    assert read(tracking, "other") == []


def test_the_newest_of_several_runs_of_a_trial_counts(tracking):
    tell_trial(tracking, "rates", Result(0, "failed", key="first"))
    tell_trial(tracking, "rates", Result(0, "finished", {"loss": 1.0}, 1.0, key="second"))
    (told,) = read(tracking)
    assert (told["state"], told["score"], told["metrics"]) == ("finished", 1.0, {"loss": 1.0})


def test_a_result_too_long_for_a_tag_is_told_by_tags_and_metrics(tracking):
    tell_trial(tracking, "rates", Result(0, "finished", {"loss": 1.0}, 1.0, key="k", tuned_uri="s3://" + "x" * 6000))
    (told,) = read(tracking)
    assert (told["state"], told["metrics"]) == ("finished", {"loss": 1.0})


def test_the_first_server_that_knows_the_sweep_is_read(tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tell_trial(tracking, "rates", Result(0, "finished", {"loss": 1.0}, 1.0, key="k"))
    found = load("read-sweep")("rates", ["", "http://127.0.0.1:9", tracking.mlflow_server_uri])
    assert found["uri"] == tracking.mlflow_server_uri
    assert len(found["trials"]) == 1
    assert found["final"] is None
    with pytest.raises(Outage, match=r"127\.0\.0\.1:9"):
        load("read-sweep")("rates", ["http://127.0.0.1:9"])
    assert load("read-sweep")("rates", []) == {"trials": [], "final": None, "uri": ""}
