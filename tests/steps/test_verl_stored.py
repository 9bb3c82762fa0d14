"""verl's checkpoints in an object store: uploaded while it trains, fetched by a pod that has nothing."""

import json
import logging
import shutil
import signal
from pathlib import Path

import pytest
import verl_runs
from stores import ROOT, objects
from test_verl_checkpoints import save
from training_inputs import as_imported
from verl_stand_in import ASKED, installed

from steps.artifacts import MANIFEST
from steps.errors import Preempted
from steps.finetune.checkpoints import folder_for
from steps.finetune.checkpoints import uploads as module
from steps.finetune.checkpoints.remote import RemoteFolder
from steps.finetune.step import finetune
from steps.params.lora import LoraParams
from steps.params.reward_training import RewardTraining
from steps.params.settings import FinetuneSettings, RewardSettings
from steps.params.training import CheckpointParams
from steps.verl.checkpoints import VerlCheckpoints


@pytest.fixture(autouse=True)
def quick(monkeypatch, caplog):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(module, "FIRST_WAIT", 0.05)
    caplog.set_level(logging.INFO, "finetune")


def settings(resume: str = "auto", place: str = ROOT, keep: int = -1, **changes) -> FinetuneSettings:
    asked = verl_runs.settings(trainer_max_ckpt_to_keep=max(keep, 0), **changes)
    kept = CheckpointParams(checkpoint_dir=place, resume_from_checkpoint=resume, save_total_limit=keep)
    return FinetuneSettings(
        pipeline="verl_finetune", verl=asked, lora=LoraParams(apply_lora=True), rewarded=RewardTraining(),
        rewards=RewardSettings(reward_funcs="exact_answer"), checkpoints=kept,
    )  # fmt: skip


def whole_in(memory) -> list[str]:
    """The checkpoints that are complete in the store."""
    return sorted(name.split("/")[-2] for name in objects(memory) if name.endswith(MANIFEST))


# ---- without a training


@pytest.fixture
def folder(memory, tmp_path) -> RemoteFolder:
    made = folder_for(settings(), {"model": "m", "data": "d"}, tmp_path / "out/c.unfinished")
    assert isinstance(made, RemoteFolder)
    return made


def kept_by(folder: RemoteFolder, keep: int = -1) -> VerlCheckpoints:
    return VerlCheckpoints(folder.path, folder.identity, 2, keep=keep)


def saved(folder: RemoteFolder, *steps: int, keep: int = -1) -> None:
    """What a training does, until all is uploaded, on a disk that is then lost."""
    with folder.lock():
        for step in steps:
            save(folder.path, step)
            assert kept_by(folder, keep).seal_whole() == [step]
            assert folder.uploads.finish() == []
    assert not folder.work.exists()


def test_the_newest_is_fetched_and_verl_goes_on_from_there(memory, folder):
    saved(folder, 2, 4)
    with folder.lock():
        assert kept_by(folder).begin(folder.brought("auto")) == folder.path / "global_step_4"
    assert whole_in(memory) == ["global_step_2", "global_step_4"]


def test_what_was_not_uploaded_whole_is_passed_over_and_deleted_there(memory, folder, caplog):
    saved(folder, 2, 4)
    key = next(name for name in memory.store if name.endswith("global_step_4/data.pt"))
    del memory.store[key]
    with folder.lock():
        assert kept_by(folder).begin(folder.brought("auto")) == folder.path / "global_step_2"
        folder.forget_after(2)
    assert "skipping global_step_4: data.pt missing" in caplog.text
    assert not [name for name in objects(memory) if "global_step_4" in name]


def test_a_checkpoint_that_is_saved_again_is_uploaded_again(memory, folder):
    saved(folder, 2, 4)
    with folder.lock():
        kept = kept_by(folder)
        assert kept.begin(folder.brought(f"{folder.uri}/global_step_2")) == folder.path / "global_step_2"
        folder.forget_after(2)
        assert whole_in(memory) == ["global_step_2"]
        save(folder.path, 4)
        kept.seal_whole()
        assert folder.uploads.finish() == []
    assert whole_in(memory) == ["global_step_2", "global_step_4"]


def test_a_start_at_step_0_begins_with_an_empty_store(memory, folder):
    saved(folder, 2, 4)
    with folder.lock():
        assert kept_by(folder).begin(folder.brought("false")) is None
    assert whole_in(memory) == []


@pytest.mark.parametrize("keep", [1, 2])
def test_as_many_as_were_asked_for_stay_here_and_there(memory, tmp_path, keep):
    folder = folder_for(settings(keep=keep), {"model": "m", "data": "d"}, tmp_path / "out/c.unfinished")
    saved(folder, 2, 4, 6, 8, keep=keep)
    assert whole_in(memory) == ["global_step_4", "global_step_6", "global_step_8"][-keep:]


def test_this_disk_holds_the_newest_only(memory, folder):
    with folder.lock():
        for step in (2, 4, 6):
            save(folder.path, step)
            kept_by(folder).seal_whole()
            folder.uploads.finish()
        assert [path.name for path in folder.path.glob("global_step_*")] == ["global_step_6"]
    assert whole_in(memory) == ["global_step_2", "global_step_4", "global_step_6"]


def test_the_metrics_of_earlier_starts_come_with_a_checkpoint(memory, folder):
    def log(start: int, text: str) -> None:
        (folder.path / "metrics").mkdir(exist_ok=True)
        (folder.path / f"metrics/from-{start:06}.jsonl").write_text(text)

    with folder.lock():
        log(0, "one\n")
        save(folder.path, 2)
        kept_by(folder).seal_whole()
        folder.uploads.finish()
        log(2, "two\n")  # of a start that saved nothing
    with folder.lock():
        assert [(file.name, file.read_text()) for file in (folder.path / "metrics").iterdir()] == [
            ("from-000000.jsonl", "one\n")
        ]
        (folder.path / "metrics/from-000000.jsonl").unlink()  # as a start at step 0 does
        save(folder.path, 4)
        kept_by(folder).seal_whole()
        folder.uploads.finish()
    assert not [name for name in objects(memory) if "metrics" in name]


# ---- the whole step, with verl's stand-in


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return as_imported(tiny_model, tmp_path / "model")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Rows; processes of this test find the stand-in."""
    monkeypatch.setenv("PYTHONPATH", installed(tmp_path)["PYTHONPATH"])
    (tmp_path / "stand_in/vllm").mkdir()
    (tmp_path / "stand_in/vllm/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "stand_in"))
    return verl_runs.write_rows(tmp_path / "data", [verl_runs.row(number) for number in range(8)], [verl_runs.row(100)])


def run(asked: FinetuneSettings, model: Path, data: Path, out: Path) -> dict:
    out.mkdir()
    finetune(asked, model, data, out / "tuned", None, out / "report.html", out / "merged")
    return json.loads((out / "tuned/history.json").read_text())


@pytest.mark.slow
def test_a_pod_with_nothing_goes_on_where_another_one_was_stopped(memory, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ASKED, "wait:3")
    first = tmp_path / "first"
    with pytest.raises(Preempted) as stopped, verl_runs.stopped_at("step:2", first, signal.SIGTERM):
        run(settings(), model, data, first)
    assert stopped.value.resume_from.startswith(ROOT)
    assert stopped.value.resume_from.endswith("global_step_2")
    assert whole_in(memory) == ["global_step_2"]
    shutil.rmtree(first)
    monkeypatch.delenv(ASKED)
    history = run(settings(), model, data, tmp_path / "second")
    whole = run(settings(place=str(tmp_path / "volume")), model, data, tmp_path / "whole")
    assert (history["resumed_from"], whole["resumed_from"]) == (2, None)
    assert history["points"] == whole["points"]
    results = [(tmp_path / name / "merged/model.safetensors").read_bytes() for name in ("second", "whole")]
    assert results[0] == results[1]
    assert whole_in(memory) == ["global_step_4"]  # a result may still be lost on its way
