"""A training whose checkpoints are in an object store ends as one without an interruption, bit for bit."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from grids import long_but
from s3_server import REGION, S3Server, s3_server
from test_checkpoints_by_time import EARLY, ENDS, told, weights, worse_each_time
from training_inputs import settings_with, train
from waiting import wait_for

from steps.artifacts import MANIFEST, read_manifest
from steps.errors import Outage, Preempted, UserError
from steps.finetune import watching
from steps.params.distributed import Processes
from steps.params.lora import LoraParams
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams

pytestmark = pytest.mark.slow


class Killed(BaseException):
    """What stands for a kill in this process."""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3"), "bucket") as one:
        yield one


@pytest.fixture
def root(server, tmp_path, monkeypatch) -> str:
    """A URI that only this test uses, in a pod: nothing outlives it but the store."""
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in {
        "AWS_ACCESS_KEY_ID": server.access_key, "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_ENDPOINT_URL": server.url, "AWS_DEFAULT_REGION": REGION,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{tmp_path.name}"


def test_the_lock_of_s3_belongs_to_one(root, monkeypatch):
    from steps.sources import locks as lease
    from steps.sources.object_folder import ObjectFolder

    objects = ObjectFolder("checkpoint_dir", root)
    assert [objects.write_new("a", text) for text in (b"1", b"2")] == [True, False]
    assert objects.read("a") == b"1"
    monkeypatch.setattr(lease, "LOCK_SECONDS", 2.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    one, other = (lease.Lease(objects, owner) for owner in "ab")
    one.take()
    with pytest.raises(Outage, match="CHECKPOINT-E0401"):
        other.take()
    one._ended.set()  # killed
    monkeypatch.setattr(lease, "STALE_SECONDS", 3.0)
    other.take()
    assert json.loads(objects.read(lease.LOCK_OBJECT))["owner"] == "b"
    other.release()
    assert set(objects.sizes()) == {"a"}


def kept_at(root: str, training: dict | None = None, lora: dict | None = None, **checkpoints) -> FinetuneSettings:
    changes = {"lora": LoraParams(**lora)} if lora else {}
    return settings_with(training, checkpoints=CheckpointParams(checkpoint_dir=root, **checkpoints), **changes)


def complete(server: S3Server, root: str) -> list[int]:
    found = server.files().find(root)
    return sorted(int(name.split("/")[-2][11:]) for name in found if name.endswith(f"/{MANIFEST}"))


LORA = {"apply_lora": True, "lora_r": 4, "lora_dropout": 0.1}


@pytest.mark.parametrize("lora", long_but([LORA], [None, LORA]), ids=["full", "LoRA"])
def test_a_training_that_is_killed_during_an_upload_goes_on_from_the_last_whole_one(
    start, server, root, model, data, tmp_path, lora
):
    long = {"num_train_epochs": 6}
    plain = train(kept_at(str(tmp_path / "volume"), long, lora), model, data, tmp_path / "plain")
    settings = kept_at(root, long, lora, save_steps=2)
    dice = random.Random(7)
    resumed, out = [], tmp_path / "out"
    for _ in range(3):
        before = max(complete(server, root), default=0)
        process = start(settings, model, data, out)
        wait_for(lambda: max(complete(server, root), default=0) > before or process.poll() is not None, 180)  # noqa: B023
        time.sleep(dice.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        resumed.append(max(complete(server, root)))
        shutil.rmtree(out, ignore_errors=True)  # the pod's disk is lost
    history = train(settings, model, data, out)
    assert history["resumed_from"] == resumed[-1] > 0
    assert told(history) == told(plain)
    assert weights(out) == weights(tmp_path / "plain")
    assert read_manifest(out / "checkpoints").facts["folder"].startswith(root)


@pytest.mark.parametrize("strategy", long_but(["ddp"], ["ddp", "fsdp"]))
def test_two_processes_that_are_stopped_go_on_from_the_store(
    start, forked, server, root, model, data, tmp_path, strategy
):
    several = {"processes": Processes(per_node=2, strategy=strategy)}
    long = {"num_train_epochs": 6, "per_device_train_batch_size": 2}
    plain = train(kept_at(str(tmp_path / "volume"), long).model_copy(update=several), model, data, tmp_path / "plain")
    settings = kept_at(root, long, save_steps=2).model_copy(update=several)
    process = start(settings, model, data, tmp_path / "out")
    wait_for(lambda: complete(server, root) or process.poll() is not None, 180)
    process.send_signal(signal.SIGTERM)
    assert process.wait(300) == 143
    saved = max(complete(server, root))
    shutil.rmtree(tmp_path / "out")  # the pod's disk is lost
    history = train(settings, model, data, tmp_path / "out")
    assert history["resumed_from"] == saved > 0
    assert told(history) == told(plain)
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


def test_a_preempted_training_says_where_it_goes_on(start, server, root, model, data, tmp_path):
    process = start(kept_at(root, {"num_train_epochs": 50}, save_steps=5), model, data, tmp_path / "out")
    wait_for(lambda: complete(server, root), 180)
    process.send_signal(signal.SIGTERM)
    process.wait(300)
    outcome = json.loads((tmp_path / "out/log.txt").read_text().strip().splitlines()[-1])
    assert process.returncode == outcome["code"] == 143
    newest = max(complete(server, root))
    assert outcome["resume_from"].startswith(f"{root}/")
    assert outcome["resume_from"].endswith(f"/checkpoint-{newest}")
    assert server.files().isfile(f"{outcome['resume_from']}/{MANIFEST}")
    assert not (tmp_path / "out/tuned").exists()


@pytest.mark.parametrize("step", long_but([27], [15, 27]))
def test_early_stopping_and_the_best_step_are_those_of_an_unbroken_training(
    root, tmp_path, monkeypatch, step, local_root
):
    monkeypatch.delenv("FINETUNE_ROOT")
    base, data, settings = worse_each_time(tmp_path, EARLY, checkpoint_dir=root, save_minutes=1e-9)
    plain = train(
        settings.model_copy(update={"checkpoints": CheckpointParams(checkpoint_dir=str(tmp_path / "v"))}),
        base, data, tmp_path / "plain",
    )  # fmt: skip
    whole = watching.Checkpoints.on_save

    def on_save(self, args, state, control, **more):
        whole(self, args, state, control, **more)
        if state.global_step == step:
            raise Killed

    with monkeypatch.context() as dies:
        dies.setattr(watching.Checkpoints, "on_save", on_save)
        with pytest.raises(Killed):
            train(settings, base, data, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    resumed = train(settings, base, data, tmp_path / "out")
    assert (resumed["resumed_from"], told(resumed)) == (step, told(plain))
    assert plain["best"]["step"] < step
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


def test_a_training_that_had_ended_is_not_trained_further(root, tmp_path, monkeypatch, local_root):

    monkeypatch.delenv("FINETUNE_ROOT")
    base, data, settings = worse_each_time(tmp_path, ENDS["by early stopping"], checkpoint_dir=root)
    with monkeypatch.context() as dies:

        def die(*_: object) -> None:
            raise Killed

        dies.setattr("steps.finetune.training.write_tuned", die)
        with pytest.raises(Killed):
            train(settings, base, data, tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    plain = train(
        settings.model_copy(update={"checkpoints": CheckpointParams(checkpoint_dir=str(tmp_path / "v"))}),
        base, data, tmp_path / "plain",
    )  # fmt: skip
    resumed = train(settings, base, data, tmp_path / "out")
    assert (resumed["resumed_from"], told(resumed)) == (plain["steps"], told(plain))
    assert weights(tmp_path / "out") == weights(tmp_path / "plain")


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({}, [20]),
        ({"keep_checkpoints": "true", "save_steps": 4}, [4, 8, 10, 12, 16, 20]),
        ({"save_total_limit": 2, "save_steps": 4}, [16, 20]),
        ({"save_total_limit": 1, "save_minutes": 1e-9}, [20]),
    ],
    ids=str,
)
def test_those_that_were_asked_for_are_left(server, root, model, data, tmp_path, asked, left):
    train(kept_at(root, **asked), model, data, tmp_path / "out")
    assert complete(server, root) == left
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["checkpoints", "report.html", "tuned"]
    assert not [name for name in server.files().find(root) if name.endswith("lock.json")]


def test_a_checkpoint_is_named_by_its_uri(server, root, model, data, tmp_path):
    train(kept_at(root, keep_checkpoints="true", save_steps=4), model, data, tmp_path / "one")
    (folder,) = server.files().ls(f"{root}/chat_completion")
    again = kept_at("", resume_from_checkpoint=f"s3://{folder}/checkpoint-12", save_steps=4)
    history = train(again, model, data, tmp_path / "two")
    assert history["resumed_from"] == 12
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_damage_and_other_data_are_told(server, root, model, data, tmp_path):
    files = server.files()
    first = kept_at(root, keep_checkpoints="true")
    train(first, model, data, tmp_path / "one")
    (folder,) = files.ls(f"{root}/chat_completion")
    files.rm(f"{folder}/finished.json")
    other = kept_at(root, {"learning_rate": 9e-4}, resume_from_checkpoint="true")
    with pytest.raises(UserError, match=r"CHECKPOINT-E0102 .*learning_rate was 0.001, is 0.0009"):
        train(other, model, data, tmp_path / "two")
    content = files.cat_file(f"{folder}/checkpoint-20/optimizer.pt")
    files.pipe_file(f"{folder}/checkpoint-20/optimizer.pt", content[:100] + bytes([content[100] ^ 1]) + content[101:])
    again = kept_at(root, keep_checkpoints="true", resume_from_checkpoint="true")
    history = train(again, model, data, tmp_path / "three")
    assert history["resumed_from"] == 10
    assert weights(tmp_path / "three") == weights(tmp_path / "one")
    for step in (10, 20):
        files.rm(f"{folder}/checkpoint-{step}/model.safetensors")
    files.rm(f"{folder}/finished.json")
    with pytest.raises(UserError, match=r"CHECKPOINT-E0101 .*model.safetensors missing.*model.safetensors missing"):
        train(again, model, data, tmp_path / "four")


def test_a_local_run_with_a_store_interrupted_in_this_process_goes_on(root, model, data, tmp_path, monkeypatch):
    """SIGTERM to this process: what a notebook does with Ctrl-C."""
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    whole = watching.Checkpoints.on_save

    def on_save(self, args, state, control, **more):
        whole(self, args, state, control, **more)
        if state.global_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as stopping:
        stopping.setattr(watching.Checkpoints, "on_save", on_save)
        with pytest.raises(Preempted) as caught:
            train(kept_at(root, save_steps=4), model, data, tmp_path / "out")
    assert caught.value.resume_from.startswith(root)
    again = kept_at(root, save_steps=4, resume_from_checkpoint="true")
    history = train(again, model, data, tmp_path / "another")
    assert history["resumed_from"] == int(Path(caught.value.resume_from).name[11:]) >= 8
