"""Trials of a sweep that end early: what is left of them, what the others see, and what a kill changes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from grids import long_but
from mlflow import MlflowClient
from test_checkpoints_by_time import CASES, USUAL, Killed, in_place, told, usual, weights
from test_finetune import opposed
from training_inputs import settings_with, train
from waiting import wait_for

from steps import wire
from steps.artifacts import read_manifest
from steps.errors import NumericError
from steps.finetune import step as finetune_step
from steps.finetune.checkpoints import CheckpointFolder
from steps.params.lora import LoraParams
from steps.params.registration import TrackingParams
from steps.params.settings import FinetuneSettings, Pruning
from steps.params.training import CheckpointParams
from steps.pruning import CurveFile, Curves, Pruned, read_curve
from steps.running import CURVE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

FAR = 1e9  # a value that no training reaches
EVERY_FOUR = {"evaluation_strategy": "steps", "eval_steps": 4, "num_train_epochs": 1}  # at steps 4, 8 and 10


def pruned_by(settings: FinetuneSettings, trial: int = 0, **more) -> FinetuneSettings:
    pruning = Pruning(sweep="rates", trial=trial, **{"startup_trials": 2, **more})
    return settings.model_copy(update={"pruning": pruning})


def training(rate: float, **changes) -> FinetuneSettings:
    return settings_with({**EVERY_FOUR, "learning_rate": rate, "lr_scheduler_type": "constant"}, **changes)


def curves(root: Path) -> Curves:
    return Curves(root / "checkpoints/shared/curves/rates")


def others(root: Path, value: float, steps: int = 20, count: int = 5) -> None:
    """Write finished trials that had the same value at every evaluation."""
    for trial in range(100, 100 + count):
        file = CurveFile(curves(root).file(trial))
        file.begin("another", "loss", steps, dict.fromkeys(range(1, steps + 1), value))
        file.finish()


@pytest.mark.parametrize("case", long_but(USUAL, [case for case in CASES if case != "sft, never evaluated"]))
def test_a_trial_that_is_not_pruned_is_bit_equal_to_the_same_training(case, tmp_path, local_root):
    base, data, settings = CASES[case][0](tmp_path)
    plain = train(settings, base, data, tmp_path / "plain")
    others(local_root, FAR)
    trial = train(pruned_by(settings), base, data, tmp_path / "trial")
    assert told(trial) == told(plain)
    assert trial["points"] == plain["points"]
    assert weights(tmp_path / "trial") == weights(tmp_path / "plain") != {}
    assert len({str(read_manifest(tmp_path / name / "tuned").lineage) for name in ("plain", "trial")}) == 1
    curve = read_curve(curves(local_root).file(0))
    assert curve.state == "finished"
    assert list(curve.points) == [(one["step"], one["loss"]) for one in trial["evaluations"]]
    assert list(curve.losses) == [(one["step"], one["loss"]) for one in trial["points"]]
    assert curve.max_steps == trial["planned_steps"]
    assert len(list((local_root / "checkpoints").glob("*/*/training.json"))) == 1  # one folder for both


# Trainer, the metric that selects its best step, whether higher is better.
TRAINERS = {
    "sft": ("loss", False), "dpo": ("rewards/accuracies", True), "kto": ("loss", False),
    "orpo": ("loss", False), "simpo": ("loss", False), "classes": ("f1_macro", True), "hidden words": ("loss", False),
    "T5": ("loss", False), "BART": ("loss", False),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("pruner", ["median", "successive_halving"])
def test_every_trainer_ends_a_trial_that_is_worse_and_leaves_nothing(name, pruner, tmp_path, local_root):
    metric, higher = TRAINERS[name]
    lora = {"lora": LoraParams(apply_lora=True, lora_r=4)} if name in ("dpo", "T5") else {}
    base, data, settings = usual(name, tmp_path, {**EVERY_FOUR, "metric_for_best_model": metric}, **lora)
    others(local_root, FAR if higher else -FAR)
    with pytest.raises(Pruned) as caught:
        train(pruned_by(settings, pruner=pruner), base, data, tmp_path / "out")
    assert caught.value.step == 4
    assert caught.value.reason.startswith(f"validation {metric} {caught.value.value:.2f}"[:-3])
    assert " at step 4 is " in caught.value.reason
    assert not (tmp_path / "out").exists()
    assert in_place(local_root) == []
    curve = read_curve(curves(local_root).file(0))
    assert (curve.state, curve.metric, curve.points) == ("pruned", metric, ((4, caught.value.value),))
    assert json.loads(curves(local_root).file(0).read_text().splitlines()[-1])["state"] == "pruned"


def test_the_last_evaluation_never_prunes(model, data, tmp_path, local_root):
    others(local_root, -FAR)
    history = train(pruned_by(training(1e-3), warmup_steps=10), model, data, tmp_path / "out")
    assert history["steps"] == 10
    assert read_curve(curves(local_root).file(0)).state == "finished"


def test_nor_does_the_one_at_which_early_stopping_ends_the_training(model, tmp_path, local_root):
    others(local_root, -FAR)
    changes = {"num_train_epochs": 10, "apply_early_stopping": True, "early_stopping_patience": 2}
    settings = pruned_by(settings_with(changes), warmup_steps=30)  # it stops at step 30
    history = train(settings, model, opposed(tmp_path), tmp_path / "out")
    assert (history["steps"], history["stopped_early"]) == (30, True)
    assert read_curve(curves(local_root).file(0)).state == "finished"


def test_bad_rates_of_a_sweep_are_pruned_and_good_ones_are_not(model, data, tmp_path, local_root):
    rates = [1e-3, 2e-3, 1e-8, 3e-3, 1e-9, 1e-3 / 2]
    ended = {}
    for trial, rate in enumerate(rates):
        try:
            train(pruned_by(training(rate), trial), model, data, tmp_path / str(trial))
        except Pruned as pruned:
            ended[trial] = pruned
    assert {rates[trial] for trial in ended} >= {1e-8, 1e-9}
    assert not {0, 1, 3} & ended.keys()
    for trial, pruned in ended.items():
        assert " is worse than the median " in pruned.reason
        assert not (tmp_path / str(trial) / "tuned").exists()
    states = {trial: curve.state for trial, curve in curves(local_root).read().items()}
    assert states == {n: "pruned" if n in ended else "finished" for n in range(len(rates))}


@pytest.mark.long
def test_trials_at_once_see_each_other(start, model, data, tmp_path, local_root, monkeypatch):
    monkeypatch.setenv("CI", "true")
    for trial, rate in enumerate((1e-3, 2e-3)):
        train(pruned_by(training(rate), trial), model, data, tmp_path / str(trial))
    processes = [
        start(pruned_by(training(rate), trial), model, data, tmp_path / str(trial))
        for trial, rate in ((2, 1e-8), (3, 3e-3))
    ]
    codes = [process.wait(200) for process in processes]
    said = [(tmp_path / str(trial) / "log.txt").read_text() for trial in (2, 3)]
    assert codes == [2, 0], said
    assert "TRAIN-E0218 step 4: found a trial that was pruned, as validation loss" in said[0]
    assert "Traceback" not in said[0]
    assert {n: one.state for n, one in curves(local_root).read().items()} == {
        0: "finished", 1: "finished", 2: "pruned", 3: "finished"
    }  # fmt: skip


def test_successive_halving_at_once_ends_all_but_some(start, model, data, tmp_path, local_root):
    rates = (1e-8, 1e-3, 1e-9, 2e-3)
    processes = [
        start(
            pruned_by(training(rate), trial, pruner="successive_halving", startup_trials=1),
            model, data, tmp_path / str(trial),
        )
        for trial, rate in enumerate(rates)
    ]  # fmt: skip
    codes = [process.wait(200) for process in processes]
    found = curves(local_root).read()
    assert {n: "pruned" if code == 2 else "finished" for n, code in enumerate(codes)} == {
        n: one.state for n, one in found.items()
    }
    assert 0 in codes
    assert all(one.points for one in found.values())


@pytest.mark.long
def test_a_killed_trial_goes_on_and_its_curve_has_each_step_once(start, model, data, tmp_path, local_root, monkeypatch):
    monkeypatch.setenv("CI", "true")
    settings = settings_with({**EVERY_FOUR, "num_train_epochs": 25})
    whole = train(pruned_by(settings, 1), model, data, tmp_path / "whole")
    expected = read_curve(curves(local_root).file(1))
    process = start(pruned_by(settings), model, data, tmp_path / "out")
    wait_for(lambda: len((read_curve(curves(local_root).file(0)) or expected).points) in range(4, 50))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = read_curve(curves(local_root).file(0))
    assert (before.state, 4 <= len(before.points) < 63) == ("running", True)
    with open(curves(local_root).file(0), "a") as file:
        file.write('{"step": 48, "val')  # what a kill in a write would leave
    process = start(pruned_by(settings), model, data, tmp_path / "out")
    assert process.wait(200) == 0
    history = json.loads((tmp_path / "out/tuned/history.json").read_text())
    assert history["resumed_from"]
    assert told(history) == told(whole)
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    found = read_curve(curves(local_root).file(0))
    assert (found.points, found.state) == (expected.points, "finished")
    steps = [
        json.loads(line)["step"] for line in curves(local_root).file(0).read_text().splitlines() if "value" in line
    ]
    assert len(steps) == len(set(steps))


KILLED_AT = {
    "the mark is written": ("steps.finetune.curves:CurveFile.prune", "after"),
    "MLflow is told": ("steps.tracking:Tracker.tag", "after"),
    "the checkpoints are deleted": ("steps.finetune.checkpoints:CheckpointFolder.clear", "before"),
    "they are gone": ("steps.finetune.checkpoints:CheckpointFolder.clear", "after"),
}
KILL = """
import importlib, os, signal, sys
module, name = sys.argv[1].split(":")
owner, name = name.split(".")
owner = getattr(importlib.import_module(module), owner)
whole = getattr(owner, name)
def killed(*given, **named):
    if sys.argv[2] == "after":
        whole(*given, **named)
    if name != "clear" or sys._getframe(1).f_code.co_name != "resume_point":
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*given, **named)
setattr(owner, name, killed)
from steps.__main__ import main
main(sys.argv[3:])
"""


@pytest.mark.parametrize("when", long_but(["the checkpoints are deleted"], KILLED_AT))
def test_a_kill_while_it_is_pruned_changes_nothing(when, model, data, tmp_path, local_root, monkeypatch, mlflow_store):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    others(local_root, -FAR)
    settings = pruned_by(
        training(1e-3, checkpoints=CheckpointParams(save_steps=1, resume_from_checkpoint="true")), warmup_steps=5
    )
    out = tmp_path / "out"
    out.mkdir()
    paths = {"model": model, "data": data, "tuned": out / "tuned", "checkpoints": out / "c", "report": out / "r.html"}
    flags = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    given = ["finetune", "--settings", wire.dump(settings.model_dump(mode="json")), *flags]
    run = subprocess.run(
        [sys.executable, "-c", KILL, *KILLED_AT[when], *given], capture_output=True, env={**os.environ, "CI": "true"}
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    mark = read_curve(curves(local_root).file(0))
    assert mark.state == "pruned"
    monkeypatch.setattr("steps.finetune.training._train", lambda *_: pytest.fail("it trains again"))
    for _ in range(2):
        with pytest.raises(Pruned) as caught:
            train(settings, model, data, out)
        assert (caught.value.step, caught.value.reason) == (8, mark.pruned.reason)
        assert in_place(local_root) == []
        assert not (out / "tuned").exists()
    store = MlflowClient(mlflow_store)
    found = store.search_runs([one.experiment_id for one in store.search_experiments()])
    assert [(run.info.status, run.data.tags.get("pruned")) for run in found] == [("KILLED", mark.pruned.reason)]


def test_a_mark_counts_before_checkpoints_are_looked_for(model, data, tmp_path, local_root):
    others(local_root, -FAR)
    resumes = CheckpointParams(resume_from_checkpoint="true")
    with pytest.raises(Pruned):
        train(pruned_by(training(1e-3, checkpoints=resumes)), model, data, tmp_path / "out")
    (folder,) = (file.parent for file in local_root.glob("checkpoints/*/*/finished.json"))
    (folder / "finished.json").unlink()  # as if it had been killed before this
    (folder.with_name("another") / "checkpoint-4").mkdir(parents=True)
    (folder.with_name("another") / "training.json").write_text("{}")
    with pytest.raises(Pruned):
        train(pruned_by(training(1e-3, checkpoints=resumes)), model, data, tmp_path / "out")


def test_the_mark_of_another_training_does_not_count(model, data, tmp_path, local_root):
    file = CurveFile(curves(local_root).file(0))
    file.begin("another", "loss", 10, {4: 1.0})
    file.prune(Pruned(4, 1.0, "why"))
    train(pruned_by(training(1e-3)), model, data, tmp_path / "out")
    assert read_curve(file.path).state == "finished"


def test_a_pruned_training_can_be_done_outside_of_the_sweep(model, data, tmp_path, local_root):
    others(local_root, -FAR)
    with pytest.raises(Pruned):
        train(pruned_by(training(1e-3)), model, data, tmp_path / "out")
    history = train(training(1e-3), model, data, tmp_path / "out")
    assert (history["steps"], history["resumed_from"]) == (10, None)


def test_a_trial_without_a_root_has_its_curve_beside_its_checkpoints(model, data, tmp_path, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    out = tmp_path / "out"
    file = CurveFile(out / "checkpoints.unfinished/curves/rates/7.jsonl")
    file.begin("another", "loss", 10, {4: -FAR})
    file.finish()
    with pytest.raises(Pruned):
        train(pruned_by(training(1e-3), startup_trials=1), model, data, out)
    assert not list(out.glob("*/checkpoint-*"))
    with pytest.raises(Pruned):
        train(pruned_by(training(1e-3), startup_trials=1), model, data, out)
    file.path.unlink()
    file.path.with_name("0.jsonl").unlink()
    assert train(pruned_by(training(1e-3)), model, data, out)["steps"] == 10


def test_mlflow_shows_a_pruned_trial(model, data, tmp_path, local_root, mlflow_store):
    others(local_root, -FAR)
    settings = pruned_by(training(1e-3, tracking=TrackingParams(mlflow_server_uri=mlflow_store)))
    with pytest.raises(Pruned) as caught:
        train(settings, model, data, tmp_path / "out")
    store = MlflowClient(mlflow_store)
    (run,) = store.search_runs([one.experiment_id for one in store.search_experiments()])
    assert (run.info.status, run.data.tags["pruned"]) == ("KILLED", caught.value.reason)
    assert run.data.metrics["eval_loss"] == pytest.approx(caught.value.value)


def test_a_smaller_batch_begins_the_curve_again(model, data, tmp_path, local_root, monkeypatch):
    from test_batch_size import memory_for

    memory_for(monkeypatch, rows=2)
    settings = training(1e-3)
    settings = settings.model_copy(
        update={"training": settings.training.model_copy(update={"auto_find_batch_size": True})}
    )
    train(pruned_by(settings), model, data, tmp_path / "out")
    assert [step for step, _ in read_curve(curves(local_root).file(0)).points] == [4, 8, 10]
    others(local_root, -FAR)
    with pytest.raises(Pruned):  # which is not a lack of memory
        train(pruned_by(settings, 1), model, data, tmp_path / "pruned")


def test_an_error_is_itself_where_the_batch_may_be_halved(model, data, tmp_path):
    changes = {"auto_find_batch_size": True, "learning_rate": 1e30, "max_grad_norm": 0}
    with pytest.raises(NumericError):
        train(settings_with(changes), model, data, tmp_path / "out")


@pytest.mark.parametrize("sweep", [False, True])
def test_the_progress_is_written_where_the_environment_says(sweep, model, data, tmp_path, local_root, monkeypatch):
    file = tmp_path / "new/progress.jsonl"
    monkeypatch.setenv(CURVE, str(file))
    settings = training(1e-3)
    history = train(pruned_by(settings) if sweep else settings, model, data, tmp_path / "out")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line for line in lines if "value" in line] == [
        {"step": one["step"], "max_steps": 10, "value": one["loss"]} for one in history["evaluations"]
    ]
    assert [line for line in lines if "loss" in line] == [
        {"step": one["step"], "max_steps": 10, "loss": one["loss"]} for one in history["points"]
    ]
    assert lines[-1] == {"state": "finished"}
    assert (local_root / "checkpoints/shared/curves").exists() == sweep
    if sweep:
        assert curves(local_root).file(0).read_text() == file.read_text()


def test_the_progress_shows_that_a_trial_was_pruned_also_when_it_is_started_again(
    model, data, tmp_path, local_root, monkeypatch
):
    others(local_root, -FAR)
    for name in ("a", "b"):
        monkeypatch.setenv(CURVE, str(tmp_path / f"{name}.jsonl"))
        with pytest.raises(Pruned):
            train(pruned_by(training(1e-3)), model, data, tmp_path / "out")
    first, again = (read_curve(tmp_path / f"{name}.jsonl") for name in ("a", "b"))
    assert first.pruned.reason == again.pruned.reason
    assert first.points == again.points


def test_progress_without_evaluations_is_the_training_loss(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(CURVE, str(tmp_path / "progress.jsonl"))
    train(settings_with({"evaluation_strategy": "no", "max_steps": 3}), model, data, tmp_path / "out")
    found = read_curve(tmp_path / "progress.jsonl")
    assert (found.points, [step for step, _ in found.losses], found.step) == ((), [1, 2, 3], 3)


def test_a_place_for_the_progress_that_cannot_be_written_does_not_end_the_training(
    model, data, tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CURVE, str(tmp_path / "file/progress.jsonl"))
    assert train(training(1e-3), model, data, tmp_path / "out")["steps"] == 10


def test_the_history_has_what_a_sweep_tells_of_a_trial(model, data, tmp_path, local_root, mlflow_store):
    tracking = TrackingParams(mlflow_server_uri=mlflow_store)
    history = train(training(1e-3, tracking=tracking), model, data, tmp_path / "out")
    assert (history["steps"], history["planned_steps"]) == (10, 10)
    assert [one["step"] for one in history["evaluations"]] == [4, 8, 10]
    assert history["tokens"] == pytest.approx(history["tokens_per_second"] * history["seconds"], rel=0.01)
    assert history["mlflow_run_id"]


# then


def again(settings: FinetuneSettings, inputs: tuple[Path, Path], out: Path, then, merged: Path | None = None):
    return finetune_step.finetune(settings, *inputs, out / "tuned", None, out / "report.html", merged, then)


def test_what_follows_a_training_is_called_while_it_can_still_be_resumed(model, data, tmp_path, local_root):
    seen = []

    def then(tuned: Path) -> None:
        assert read_manifest(tuned).kind == "model"
        assert in_place(local_root)
        assert not list(local_root.glob("checkpoints/*/*/finished.json"))
        assert "deepspeed" not in sys.modules or sys.modules["deepspeed"] is not None
        seen.append(tuned)

    again(pruned_by(training(1e-3)), (model, data), tmp_path / "out", then)
    assert seen == [tmp_path / "out/tuned"]
    assert in_place(local_root) == []
    assert len(list(local_root.glob("checkpoints/*/*/finished.json"))) == 1


@pytest.mark.parametrize("error", [Killed, ValueError])
def test_a_whole_result_is_not_trained_again_for_what_follows(error, model, data, tmp_path, monkeypatch):
    settings, seen = pruned_by(training(1e-3)), []

    def fails(tuned: Path) -> None:
        raise error

    with pytest.raises(error):
        again(settings, (model, data), tmp_path / "out", fails)
    written = (tmp_path / "out/tuned/model.safetensors").stat().st_mtime_ns
    monkeypatch.setattr("steps.finetune.training._train", lambda *_: pytest.fail("it trains again"))
    for _ in range(2):  # also when all has ended
        again(settings, (model, data), tmp_path / "out", seen.append)
    assert len(seen) == 2
    assert (tmp_path / "out/tuned/model.safetensors").stat().st_mtime_ns == written
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize("lost", ["the result", "the merged model"])
def test_with_another_disk_it_goes_on_from_the_last_checkpoint(lost, model, data, tmp_path):
    import shutil

    settings, seen = training(1e-3), []
    merged = tmp_path / "merged" if lost == "the merged model" else None

    def fails(tuned: Path) -> None:
        raise Killed

    with pytest.raises(Killed):
        again(settings, (model, data), tmp_path / "out", fails, merged)
    weights_before = weights(tmp_path / "out")
    shutil.rmtree(merged or tmp_path / "out/tuned")
    again(settings, (model, data), tmp_path / "out", seen.append, merged)
    assert len(seen) == 1
    assert json.loads((tmp_path / "out/tuned/history.json").read_text())["resumed_from"] == 10
    assert weights(tmp_path / "out") == weights_before
    assert merged is None or read_manifest(merged).kind == "model"


@pytest.mark.parametrize("change", ["rate", "damage", "kind"])
def test_another_or_a_damaged_result_is_trained_again(change, model, data, tmp_path):
    seen: list[Path] = []
    again(training(1e-3), (model, data), tmp_path / "out", seen.append)
    before = weights(tmp_path / "out")
    settings = training(2e-3 if change == "rate" else 1e-3)
    if change == "damage":
        (tmp_path / "out/tuned/model.safetensors").write_bytes(b"x")
    if change == "kind":
        settings = training(1e-3, lora=LoraParams(apply_lora=True))
    again(settings, (model, data), tmp_path / "out", seen.append)
    assert (weights(tmp_path / "out") == before) == (change == "damage")
    assert len(seen) == 2


def test_without_something_that_follows_a_training_is_done_again_as_before(model, data, tmp_path):
    train(training(1e-3), model, data, tmp_path / "out")
    written = (tmp_path / "out/tuned/model.safetensors").stat().st_mtime_ns
    train(training(1e-3), model, data, tmp_path / "out")
    assert (tmp_path / "out/tuned/model.safetensors").stat().st_mtime_ns != written


def test_what_follows_is_no_option_of_the_command_line():
    run = subprocess.run([sys.executable, "-m", "steps", "finetune", "--help"], capture_output=True, text=True)
    assert "--merged" in run.stdout
    assert "--then" not in run.stdout


def test_the_folder_of_a_trial_is_that_of_the_training(tmp_path):
    from steps.finetune.checkpoints import folder_for

    settings, inputs = training(1e-3), {"model": "a", "data": "b"}
    folders: list[CheckpointFolder] = [
        folder_for(one, inputs, tmp_path)
        for one in (settings, pruned_by(settings), pruned_by(settings, 3, pruner="successive_halving"))
    ]
    assert len({folder.path for folder in folders}) == 1
    assert folders[0].path.name == folders[0].key
