"""One training is one MLflow run, however often it is interrupted, and no run stays open for ever."""

import errno
import itertools
import json
import signal
import time
from pathlib import Path

import pytest
from grids import long_but
from mlflow import MlflowClient
from training_inputs import settings_with, train
from waiting import LONG, wait_for

from steps.finetune.step import finetune
from steps.params.registration import TrackingParams
from steps.params.training import CheckpointParams
from steps.tracking import Tracker
from steps.tracking.continued import FILE, end_abandoned
from steps.tracking.parameters import parameters_of

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def store(mlflow_store, local_root, monkeypatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return MlflowClient(mlflow_store)


def runs(store: MlflowClient) -> dict[str, str]:
    """Every run and its status."""
    found = store.search_runs([one.experiment_id for one in store.search_experiments()])
    return {run.info.run_id: run.info.status for run in found}


def points(store: MlflowClient, run_id: str, name: str = "loss") -> list[tuple[int, float]]:
    return sorted((one.step, one.value) for one in store.get_metric_history(run_id, name))


def interrupted(start, how: signal.Signals, model: Path, data: Path, out: Path, root: Path, **changes) -> None:
    """Start the training of `longer` and stop it after its second checkpoint."""
    process = start(longer(**changes), model, data, out)
    wait_for(
        lambda: (
            list(root.glob("checkpoints/*/*/checkpoint-20/manifest.json"))
            and list(root.glob(f"checkpoints/*/*/{FILE}"))
        )
    )
    process.send_signal(how)
    process.wait()


def longer(**checkpoints):
    return settings_with({"num_train_epochs": 12}, checkpoints=CheckpointParams(save_steps=10, **checkpoints))


STOPS = list(itertools.product(("true", "auto"), (signal.SIGKILL, signal.SIGTERM)))


@pytest.mark.parametrize(("resume", "how"), long_but([("true", signal.SIGKILL)], STOPS))
def test_a_resumed_training_continues_its_run_and_repeats_no_metric(
    start, store, model, data, tmp_path, local_root, how, resume
):
    interrupted(start, how, model, data, tmp_path / "out", local_root)
    (run_id,) = runs(store)
    assert runs(store) == {run_id: "RUNNING" if how == signal.SIGKILL else "KILLED"}
    history = train(longer(resume_from_checkpoint=resume), model, data, tmp_path / "out")
    assert runs(store) == {run_id: "FINISHED"}
    assert history["mlflow_run_id"] == run_id
    assert history["resumed_from"] >= 20
    whole = [(point["step"], point["loss"]) for point in history["points"]]
    assert points(store, run_id) == whole
    assert [step for step, _ in whole] == list(range(1, history["steps"] + 1))
    for name in store.get_run(run_id).data.metrics:
        steps = [step for step, _ in points(store, run_id, name)]
        assert len(steps) == len(set(steps)), name


def test_a_training_that_starts_again_is_another_run_and_the_killed_one_is_closed(
    start, store, model, data, tmp_path, local_root
):
    interrupted(start, signal.SIGKILL, model, data, tmp_path / "out", local_root)
    (killed,) = runs(store)
    history = train(longer(), model, data, tmp_path / "out")
    assert runs(store) == {killed: "KILLED", history["mlflow_run_id"]: "FINISHED"}
    ended = store.get_run(killed).info
    assert ended.start_time < ended.end_time <= time.time() * 1000


def test_the_next_training_closes_the_run_of_another_that_was_killed(start, store, model, data, tmp_path, local_root):
    interrupted(start, signal.SIGKILL, model, data, tmp_path / "out", local_root)
    (killed,) = runs(store)
    other = train(settings_with({"max_steps": 2}), model, data, tmp_path / "other")
    assert runs(store) == {killed: "KILLED", other["mlflow_run_id"]: "FINISHED"}


def test_the_run_of_an_active_training_is_left_open(start, store, model, data, tmp_path, local_root, mlflow_store):
    process = start(longer(), model, data, tmp_path / "out")
    wait_for(lambda: list(local_root.glob(f"checkpoints/*/*/{FILE}")))
    assert end_abandoned(store, mlflow_store, local_root / "checkpoints") == []
    assert list(runs(store).values()) == ["RUNNING"]
    process.kill()
    process.wait()
    assert end_abandoned(store, mlflow_store, local_root / "checkpoints") == list(runs(store))
    assert list(runs(store).values()) == ["KILLED"]
    assert end_abandoned(store, mlflow_store, local_root / "checkpoints") == []


def test_a_finished_training_that_is_repeated_is_another_run(store, model, data, tmp_path):
    given = settings_with({"max_steps": 2}, checkpoints=CheckpointParams(resume_from_checkpoint="auto"))
    first, second = (train(given, model, data, tmp_path / name)["mlflow_run_id"] for name in ("one", "two"))
    assert runs(store) == {first: "FINISHED", second: "FINISHED"}
    assert points(store, first) == points(store, second)


def test_a_finished_training_whose_result_was_lost_is_the_same_run(store, model, data, tmp_path):
    kept = CheckpointParams(resume_from_checkpoint="auto", keep_checkpoints="true")
    given = settings_with({"num_train_epochs": 1}, checkpoints=kept)
    first, second = (train(given, model, data, tmp_path / name)["mlflow_run_id"] for name in ("one", "two"))
    assert first == second
    assert runs(store) == {first: "FINISHED"}
    assert [step for step, _ in points(store, first)] == list(range(1, 11))


def test_a_run_that_was_deleted_is_begun_anew(start, store, model, data, tmp_path, local_root):
    interrupted(start, signal.SIGTERM, model, data, tmp_path / "out", local_root)
    (deleted,) = runs(store)
    store.delete_run(deleted)
    history = train(longer(resume_from_checkpoint="true"), model, data, tmp_path / "out")
    assert runs(store) == {history["mlflow_run_id"]: "FINISHED"}
    assert points(store, history["mlflow_run_id"])[0][0] == 1  # what the process before had reached, too


def test_a_smaller_batch_tried_again_repeats_no_metric(tmp_path, store, mlflow_store):
    with Tracker(TrackingParams(), "p finetune", keep=tmp_path) as tracker:
        for step in (1, 2, 3, 1, 2, 3, 4):
            tracker.metrics({"loss": float(step), "epoch": 1.0}, step)
        tracker.metrics({"eval_loss": 1.0, "epoch": 1.0}, 4)
    assert points(store, tracker.run_id) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert points(store, tracker.run_id, "eval_loss") == [(4, 1.0)]
    assert json.loads((tmp_path / FILE).read_text())["status"] == "FINISHED"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_how_a_training_ended_is_the_status_of_its_run(tmp_path, store, error, status):
    def fail():
        with Tracker(TrackingParams(), "p finetune", keep=tmp_path):
            raise error

    with pytest.raises(error):
        fail()
    assert list(runs(store).values()) == [status]


def test_a_full_volume_is_no_server_that_does_not_answer(tmp_path, store, monkeypatch, caplog):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("steps.tracking.continued.write_durably", full)
    monkeypatch.setattr("steps.tracking.tracker.FLUSH_SECONDS", 1000.0)
    began = time.monotonic()
    with Tracker(TrackingParams(), "p finetune", keep=tmp_path) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
    assert time.monotonic() - began < LONG
    assert points(store, tracker.run_id) == [(1, 1.0)]
    assert list(runs(store).values()) == ["FINISHED"]
    assert caplog.messages == []


def test_only_parameters_of_the_own_pipeline_are_recorded():
    lineage = {"settings": {"source": {"train_file_path": "s3://b/train.jsonl", "delimiter": "", "json_field": ""}}}
    told = parameters_of(settings_with(), lineage)
    assert told["data"] == {"train_file_path": "s3://b/train.jsonl"}
    assert told["training"]["learning_rate"] == 1e-3
    assert not {"preference", "mlm_probability", "num_beams", "new_weights"} & set(told)
    assert "max_length" in told


def test_data_and_effective_parameters_are_in_the_run(store, model, data, tmp_path):
    history = train(settings_with({"max_steps": 1}), model, data, tmp_path / "out")
    recorded = store.get_run(history["mlflow_run_id"]).data.params
    assert recorded["training.per_device_train_batch_size"] == "4"
    assert recorded["kind"] == "causal_lm"
    assert not [name for name in recorded if "mlm" in name or name.startswith("preference")]


def test_a_run_whose_end_was_not_told_ends_when_the_task_goes_on(store, model, data, tmp_path, local_root):
    """A process is stopped behind its result and before the server knows; another training calls its run killed."""
    place = (settings_with(), model, data, tmp_path / "tuned", tmp_path / "checkpoints", tmp_path / "report.html")

    def stopped(_: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(*place, then=stopped)
    (run_id,) = runs(store)
    (file,) = local_root.glob(f"checkpoints/*/*/{FILE}")
    file.write_text(json.dumps({**json.loads(file.read_text()), "status": "KILLED"}))
    store.set_terminated(run_id, "KILLED")
    before = points(store, run_id)
    finetune(*place, then=lambda _: None)
    assert runs(store) == {run_id: "FINISHED"}
    assert points(store, run_id) == before
