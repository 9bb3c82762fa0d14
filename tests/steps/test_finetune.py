"""finetune trains as TRL does, resumes bit for bit, and never writes an unfinished or non-finite result."""

import errno
import json
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import chat_rows
from training_inputs import settings_with, train, write_ids, write_tokens
from waiting import wait_for

from steps.artifacts import read_manifest
from steps.errors import NumericError, UserError
from steps.finetune.checkpoints import folder_for, prune, resume_point, seal
from steps.params.lora import LoraParams
from steps.params.registration import TrackingParams
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams
from steps.tracking import UNSENT
from steps.tracking.records import read_unsent

pytestmark = pytest.mark.usefixtures("local_root")


def bare_losses(settings: FinetuneSettings, model: Path, tokenizer, out: Path) -> list[float]:
    """Train the same rows with nothing but TRL, from raw conversations."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = chat_rows(50)
    t = settings.training
    config = SFTConfig(
        output_dir=str(out),
        num_train_epochs=t.num_train_epochs,
        per_device_train_batch_size=t.per_device_train_batch_size,
        per_device_eval_batch_size=t.per_device_eval_batch_size,
        learning_rate=t.learning_rate,
        lr_scheduler_type=t.lr_scheduler_type,
        warmup_steps=t.warmup_steps,
        weight_decay=t.weight_decay,
        optim="adamw_torch",
        logging_steps=1,
        eval_strategy="epoch",
        save_strategy="no",
        max_length=64,
        packing=settings.packing,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
    )
    lora = settings.lora
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=config,
        train_dataset=Dataset.from_list(rows[:40]),
        eval_dataset=Dataset.from_list(rows[40:]),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=lora.lora_r, lora_alpha=lora.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        if lora.apply_lora
        else None,
    )
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 3, 100], ids=lambda every: f"every {every} steps")
def test_the_speed_counts_the_tokens_of_every_step_however_rarely_they_are_logged(model, tokenizer, tmp_path, every):
    data = write_tokens(tmp_path / "data", tokenizer, chat_rows(50))
    settings = settings_with({"max_steps": 4, "logging_steps": every, "per_device_train_batch_size": 8})
    history = train(settings, model, data, tmp_path)
    tokens = history["tokens_per_second"] * history["seconds"]
    rows = pq.read_table(data / "tokens/train.parquet").column("input_ids").to_pylist()
    lengths = sorted(len(row) for row in rows)
    assert sum(lengths[:32]) - 8 <= tokens <= sum(lengths[-32:]) + 8  # 4 steps of 8 rows, rounded


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_the_loss_trace_equals_a_bare_sft_trainer(model, tokenizer, tmp_path, lora, packing, peer):
    settings = settings_with(lora=LoraParams(apply_lora=lora), packing=packing)
    data = write_tokens(tmp_path / "data", tokenizer, chat_rows(50), packing)
    ours = [point["loss"] for point in train(settings, model, data, tmp_path / "ours")["points"]]
    bare = peer(bare_losses, settings, model, tokenizer, tmp_path / "bare")
    assert len(ours) == len(bare) >= 4
    assert ours == pytest.approx(bare, abs=1e-6)
    assert ours[-1] < ours[0]


@pytest.mark.slow
def test_a_killed_training_resumes_bit_for_bit(start, model, data, tmp_path, local_root):
    unbroken = tmp_path / "unbroken"
    train(settings_with(checkpoints=CheckpointParams(save_steps=3)), model, data, unbroken)
    for folder in (local_root / "checkpoints" / "chat_completion").iterdir():
        import shutil

        shutil.rmtree(folder)
    broken = settings_with(checkpoints=CheckpointParams(save_steps=3))
    process = start(broken, model, data, tmp_path / "broken")
    wait_for(lambda: list(local_root.glob("checkpoints/*/*/checkpoint-6/manifest.json")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "broken" / "tuned").exists()
    again = settings_with(checkpoints=CheckpointParams(save_steps=3, resume_from_checkpoint="true"))
    history = train(again, model, data, tmp_path / "broken")
    assert history["resumed_from"] >= 6
    weights = [(out / "tuned" / "model.safetensors").read_bytes() for out in (unbroken, tmp_path / "broken")]
    assert weights[0] == weights[1]


@pytest.mark.slow
@pytest.mark.parametrize("lora", [False, True])
def test_a_training_goes_on_in_the_same_pod_after_an_outage_of_its_disk(model, data, tmp_path, monkeypatch, lora):
    from steps import outages, running
    from steps.finetune import checkpoints

    given = {"lora": LoraParams(apply_lora=lora)}
    wanted = "false" if lora else "auto"  # the same task resumes, whatever is wanted
    folders = {name: CheckpointParams(save_steps=3, resume_from_checkpoint=wanted, checkpoint_dir=str(tmp_path / name))
               for name in ("unbroken", "broken")}  # fmt: skip
    train(settings_with(checkpoints=folders["unbroken"], **given), model, data, tmp_path / "one")
    whole, failures = checkpoints.seal, [OSError(errno.ESTALE, "Stale file handle", "checkpoint-9")]

    def seal(checkpoint: Path, *more) -> None:
        if checkpoint.name == "checkpoint-9" and failures:
            raise failures.pop()
        whole(checkpoint, *more)

    monkeypatch.setattr(checkpoints, "seal", seal)
    monkeypatch.setattr(outages, "WAITS", (0, 0))
    monkeypatch.setattr(outages, "on_cluster", lambda: True)
    settings = settings_with(checkpoints=folders["broken"], **given)
    resumes = "finetune" in running.RESUMING
    history = outages.outlasting("finetune", lambda: train(settings, model, data, tmp_path / "two"), resumes)
    assert failures == []
    assert history["resumed_from"] == 6
    file = "tuned/adapter_model.safetensors" if lora else "tuned/model.safetensors"
    assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.slow
def test_sigterm_saves_exits_143_and_leaves_no_model(start, model, data, tmp_path, local_root):
    settings = settings_with({"num_train_epochs": 50}, checkpoints=CheckpointParams(save_steps=5))
    process = start(settings, model, data, tmp_path / "out")
    wait_for(lambda: list(local_root.glob("checkpoints/*/*/checkpoint-5/manifest.json")))
    process.send_signal(signal.SIGTERM)
    process.wait(300)
    outcome = json.loads((tmp_path / "out/log.txt").read_text().strip().splitlines()[-1])
    assert process.returncode == outcome["code"] == 143
    assert outcome["retryable"] is True
    assert Path(outcome["resume_from"]).is_dir()
    assert not (tmp_path / "out" / "tuned").exists()


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({}, []),
        ({"save_total_limit": 2}, [8, 10]),
        ({"save_total_limit": 2, "keep_checkpoints": "false"}, []),
        ({"keep_checkpoints": "true"}, [2, 4, 6, 8, 10]),
    ],
)
@pytest.mark.parametrize("place", ["local", "pod", "volume"])
def test_a_finished_training_keeps_the_checkpoints_that_are_asked_for(
    model, data, tmp_path, monkeypatch, asked, left, place
):
    folder = tmp_path / "out/checkpoints" if place == "pod" else tmp_path / "root/checkpoints"
    if place != "local":
        monkeypatch.delenv("FINETUNE_ROOT")
    if place == "volume":
        asked = {**asked, "checkpoint_dir": str(folder)}
        left = left or [10]  # the result may be lost on its way out of the pod
    settings = settings_with({"max_steps": 10}, checkpoints=CheckpointParams(save_steps=2, **asked))
    train(settings, model, data, tmp_path / "out")
    assert sorted(int(path.name[11:]) for path in folder.rglob("checkpoint-*")) == left


@pytest.mark.parametrize(("asked", "left"), [({}, []), ({"save_total_limit": 2}, [8, 10])])
def test_a_task_of_kfp_keeps_them_beside_the_tuned_model_where_nothing_else_lasts(
    model, data, tmp_path, monkeypatch, asked, left
):
    from steps.finetune.step import finetune

    monkeypatch.delenv("FINETUNE_ROOT")
    settings = settings_with({"max_steps": 10}, checkpoints=CheckpointParams(save_steps=2, **asked))
    manifest = finetune(settings, model, data, tmp_path / "out/tuned", None, tmp_path / "out/report.html")
    kept = tmp_path / "out/tuned/checkpoints"
    assert sorted(int(path.name[11:]) for path in tmp_path.rglob("checkpoint-*")) == left
    assert len(list(kept.glob("checkpoint-*"))) == len(left)
    assert not any(name.startswith("checkpoints/") for name in manifest.files)
    assert read_manifest(tmp_path / "out/tuned").digest == manifest.digest
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "tuned"]


def opposed(tmp_path: Path) -> Path:
    """The surer a model is of one token, the less it expects another: each evaluation is worse than the one before."""
    return write_ids(tmp_path / "opposed", train=[[5] * 20] * 40, validation=[[7] * 20] * 10)


@pytest.mark.slow
def test_the_best_checkpoint_by_lowest_validation_loss_is_the_result(model, tmp_path):
    kept = settings_with({"num_train_epochs": 4}, checkpoints=CheckpointParams(keep_checkpoints="true"))
    history = train(kept, model, opposed(tmp_path), tmp_path / "out")
    best = min(history["evaluations"], key=lambda evaluation: evaluation["loss"])
    assert history["best"] == {"step": best["step"], "metric": "validation loss", "value": best["loss"]}
    assert best["step"] < history["steps"]
    checkpoint = next((tmp_path / "root").glob(f"checkpoints/*/*/checkpoint-{best['step']}"))
    assert (checkpoint / "model.safetensors").read_bytes() == (tmp_path / "out/tuned/model.safetensors").read_bytes()


@pytest.mark.slow
def test_early_stopping_ends_when_validation_no_longer_improves(model, tmp_path):
    settings = settings_with({"num_train_epochs": 10, "apply_early_stopping": True, "early_stopping_patience": 2})
    history = train(settings, model, opposed(tmp_path), tmp_path / "out")
    assert history["stopped_early"]
    assert (history["steps"], history["planned_steps"]) == (30, 100)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_training_and_leaves_no_model(model, data, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    (model / "manifest.json").unlink()
    reseal(model)
    with pytest.raises(NumericError, match="step 1"):
        train(settings_with(), model, data, tmp_path / "out")
    assert not (tmp_path / "out" / "tuned").exists()


@pytest.mark.slow
def test_a_tracking_server_that_is_down_does_not_stop_a_training(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("steps.tracking.tracker.FLUSH_SECONDS", 2.0)
    settings = settings_with({"max_steps": 2}, tracking={"mlflow_server_uri": "http://127.0.0.1:9"})
    history = train(settings, model, data, tmp_path / "out")
    assert history["steps"] == 2
    run, records = read_unsent(tmp_path / "out/tuned" / UNSENT)
    assert run.tags["data_digest"] == read_manifest(data).digest
    losses = [record["metrics"]["loss"] for record in records if "loss" in record.get("metrics", {})]
    assert losses == [point["loss"] for point in history["points"]]
    assert records[-1]["status"] == "FINISHED"


@pytest.mark.slow
def test_checkpoints_are_copied_to_mlflow_while_the_training_goes_on(model, data, tmp_path, mlflow_store):
    from mlflow import MlflowClient

    tracking = {"mlflow_server_uri": mlflow_store, "hf_mlflow_log_artifacts": "True"}
    history = train(settings_with(tracking=tracking), model, data, tmp_path / "out")
    client = MlflowClient(mlflow_store)
    copied = {file.path for file in client.list_artifacts(history["mlflow_run_id"])}
    newest = f"checkpoint-{history['steps']}"
    assert newest in copied
    files = {file.path for file in client.list_artifacts(history["mlflow_run_id"], newest)}
    assert {f"{newest}/model.safetensors", f"{newest}/manifest.json"} <= files


@pytest.mark.slow
def test_metrics_reach_mlflow_with_the_run_that_the_history_names(model, data, tmp_path, mlflow_store, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    history = train(settings_with({"max_steps": 3}), model, data, tmp_path / "out")
    client = MlflowClient(mlflow_store)
    sent = client.get_metric_history(history["mlflow_run_id"], "loss")
    assert [m.value for m in sorted(sent, key=lambda m: m.step)] == [point["loss"] for point in history["points"]]
    assert client.get_run(history["mlflow_run_id"]).info.status == "FINISHED"


def test_lora_layers_that_do_not_exist_are_refused_by_name(tiny_model):
    from transformers import AutoModelForCausalLM

    from steps.finetune.loading import lora_config

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with pytest.raises(UserError, match=r"found query,value; expected .*q_proj"):
        lora_config(settings_with(lora=LoraParams(apply_lora=True, lora_target_modules="query,value")), model)
    some = settings_with(lora=LoraParams(apply_lora=True, lora_target_modules="q_proj,value"))
    assert lora_config(some, model).target_modules == {"q_proj"}


# Which checkpoint a training may go on from.


@pytest.fixture
def folder(tmp_path):
    found = folder_for(settings_with(), {"model": "m", "data": "d"}, tmp_path / "unused")
    with found.lock():
        pass
    return found


def checkpoint(folder, step: int, whole: bool = True) -> Path:
    path = folder.path / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights of step %d" % step)
    if whole:
        seal(path)
    return path


def test_the_newest_whole_checkpoint_is_resumed_and_a_half_written_one_is_passed_over(folder, caplog):
    checkpoint(folder, 5)
    whole = checkpoint(folder, 10)
    checkpoint(folder, 15, whole=False)
    assert resume_point(folder, "true") == whole
    assert "checkpoint-15" in caplog.text


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_checkpoint_is_found_out(folder, damage):
    good, bad = checkpoint(folder, 5), checkpoint(folder, 10)
    file = bad / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    assert resume_point(folder, "true") == good


def test_only_damaged_checkpoints_are_an_error_and_no_silent_restart(folder):
    checkpoint(folder, 5, whole=False)
    with pytest.raises(UserError, match=r"checkpoint-5 .*manifest"):
        resume_point(folder, "true")


def test_without_resume_an_older_trainings_checkpoints_are_cleared(folder):
    checkpoint(folder, 5)
    assert resume_point(folder, "false") is None
    assert not list(folder.path.glob("checkpoint-*"))


def test_resuming_with_other_settings_is_refused_with_what_differs(folder, tmp_path):
    checkpoint(folder, 5)
    other = folder_for(settings_with({"learning_rate": 9e-4}), {"model": "m", "data": "d"}, tmp_path / "unused")
    with pytest.raises(UserError, match=r"learning_rate was 0.001, is 0.0009"):
        resume_point(other, "true")
    assert resume_point(other, "auto") is None


def test_where_checkpoints_lie_does_not_change_which_training_it_is(folder, tmp_path):
    moved = settings_with(checkpoints=CheckpointParams(save_steps=7, resume_from_checkpoint="true"))
    assert folder_for(moved, {"model": "m", "data": "d"}, tmp_path).path == folder.path


def test_where_metrics_go_does_not_change_which_training_it_is(folder, tmp_path):
    elsewhere = settings_with(tracking=TrackingParams(mlflow_server_uri="http://other", experiment_name="other"))
    assert folder_for(elsewhere, {"model": "m", "data": "d"}, tmp_path).path == folder.path


def test_pruning_keeps_the_newest_and_the_best(folder):
    steps = [checkpoint(folder, step) for step in (5, 10, 15, 20)]
    prune(folder.path, 2, best=str(steps[0]))
    assert sorted(path.name for path in folder.path.glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-5"]
    prune(folder.path, 1, best=str(steps[0]))
    assert sorted(path.name for path in folder.path.glob("checkpoint-*")) == ["checkpoint-20", "checkpoint-5"]


def test_a_best_metric_of_zero_is_one():
    from transformers import TrainerState

    from steps.finetune.watching import history_of

    best = history_of(TrainerState(best_metric=0.0, best_global_step=7), "f1")["best"]
    assert best == {"step": 7, "metric": "validation f1", "value": 0.0}
    assert history_of(TrainerState())["best"] is None


def reseal(folder: Path) -> None:
    """Give a changed folder a manifest that fits, as if it had been imported so."""
    from steps.artifacts import MANIFEST, Manifest, describe_files, manifest_text

    (folder / MANIFEST).write_text(manifest_text(Manifest("model", describe_files(folder))))
    read_manifest(folder, "model")
