"""The step finetune with verl's stand-in: its result, its tracked run, its end and its start again."""

import json
import signal
from pathlib import Path

import pytest
import verl_runs
import yaml
from training_inputs import as_imported
from verl_stand_in import ASKED, installed

from steps.artifacts import read_manifest
from steps.errors import OutOfResources, Preempted
from steps.finetune.checkpoints import folder_for
from steps.finetune.step import finetune
from steps.params.lora import LoraParams
from steps.params.reward_training import RewardTraining
from steps.params.settings import FinetuneSettings, RewardSettings
from steps.params.training import CheckpointParams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return as_imported(tiny_model, tmp_path / "model")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Rows; processes of this test find the stand-in."""
    variables = installed(tmp_path)
    monkeypatch.setenv("PYTHONPATH", variables["PYTHONPATH"])
    (tmp_path / "stand_in/vllm").mkdir()
    (tmp_path / "stand_in/vllm/__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "stand_in"))
    return verl_runs.write_rows(tmp_path / "data", [verl_runs.row(number) for number in range(8)], [verl_runs.row(100)])


def settings(rewards: str = "exact_answer", checkpoints: dict | None = None, **changes) -> FinetuneSettings:
    asked = verl_runs.settings(**changes)
    return FinetuneSettings(
        pipeline="verl_finetune", verl=asked, lora=LoraParams(apply_lora=asked.actor_model_lora_rank > 0),
        rewarded=RewardTraining(), rewards=RewardSettings(reward_funcs=rewards),
        checkpoints=CheckpointParams(**(checkpoints or {})),
    )  # fmt: skip


def run(asked: FinetuneSettings, model: Path, data: Path, out: Path) -> dict:
    out.mkdir(exist_ok=True)
    finetune(asked, model, data, out / "tuned", None, out / "report.html", out / "merged")
    return json.loads((out / "tuned/history.json").read_text())


def weights(folder: Path) -> dict:
    from safetensors.numpy import load_file

    return load_file(next(folder.glob("*.safetensors")))


def test_an_adapter_is_trained_merged_and_reported(model, data, tmp_path, local_root):
    history = run(settings(), model, data, tmp_path / "out")
    assert history["steps"] == 4
    assert read_manifest(tmp_path / "out/tuned").kind == "adapter"
    base, merged = weights(model), weights(tmp_path / "out/merged")
    assert base.keys() == merged.keys()
    assert any((base[name] != merged[name]).any() for name in base)
    assert "step" in (tmp_path / "out/report.html").read_text()
    assert not list(local_root.glob("checkpoints/**/global_step_*"))  # the result is written


def test_all_weights_are_trained_and_the_checkpoints_kept(model, data, tmp_path, local_root):
    kept = {"keep_checkpoints": "true"}
    run(settings(actor_model_lora_rank=0, checkpoints=kept), model, data, tmp_path / "out")
    assert read_manifest(tmp_path / "out/tuned").kind == "model"
    assert read_manifest(tmp_path / "out/merged").same_as
    assert [one.name for one in sorted(local_root.glob("checkpoints/**/global_step_*"))] == [
        "global_step_2", "global_step_4",
    ]  # fmt: skip


def test_a_task_that_was_stopped_goes_on_when_it_is_started_again(model, data, tmp_path, local_root, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.setenv(ASKED, "wait:3")
    with pytest.raises(Preempted) as stopped, verl_runs.stopped_at("step:2", local_root, signal.SIGTERM):
        run(settings(), model, data, out)
    assert "global_step_2" in stopped.value.resume_from
    assert not (out / "tuned").exists()
    monkeypatch.delenv(ASKED)
    history = run(settings(), model, data, out)
    assert history["resumed_from"] == 2
    assert [point["step"] for point in history["points"]] == [1, 2, 3, 4]


def test_an_error_of_verl_ends_the_step_with_its_code(model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ASKED, "oom:2")
    with pytest.raises(OutOfResources):
        run(settings(), model, data, tmp_path / "out")


def test_verls_own_rewards_are_called_where_none_is_asked_for(model, data, tmp_path):
    paths = {}
    for reward in ("by_source", "exact_answer"):
        run(settings(rewards=reward), model, data, tmp_path / reward)
        config = yaml.safe_load((tmp_path / reward / "tuned/verl_config.yaml").read_text())
        paths[reward] = config["reward"]["custom_reward_function"]["path"]
    assert paths["by_source"] is None
    assert paths["exact_answer"].endswith("rewards.py")


def test_when_it_saves_is_no_part_of_a_training(tmp_path):
    """A training that is to save more often goes on from its checkpoints; one with another rate does not."""
    keys = [
        folder_for(settings(**changes), {"model": "m", "data": "d"}, tmp_path / "unfinished").key
        for changes in ({}, {"trainer_save_freq": 1, "trainer_max_ckpt_to_keep": 3}, {"actor_optim_lr": 0.5})
    ]
    assert keys[0] == keys[1] != keys[2]
