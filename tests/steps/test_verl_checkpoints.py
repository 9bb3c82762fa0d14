"""Checkpoints of verl: which are whole, from which a training goes on, and which are refused."""

import json
import logging
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_inputs import as_imported
from verl_runs import stopped_at, training

from steps.errors import NumericError, OutOfResources, Preempted, UserError
from steps.sealed import damage_of, is_sealed
from steps.verl.checkpoints import LATEST, VerlCheckpoints, shard_name, step_of
from steps.verl.metrics import read_all
from steps.verl.training import train_by_verl

IDENTITY = {"settings": {"actor_optim_lr": 1e-6}, "inputs": {"data": "d"}}


def archive(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file, "w") as stored:
        stored.writestr("data.pkl", b"x" * 100)


def save(folder: Path, step: int, processes: int = 2, roles=("actor",), told: bool = True) -> Path:
    """Write a checkpoint by verl's layout, with archives that hold no tensors."""
    checkpoint = folder / f"global_step_{step}"
    for role in roles:
        for rank in range(processes):
            for kind in ("model", "optim", "extra_state"):
                archive(checkpoint / role / shard_name(kind, processes, rank))
        (checkpoint / role / "fsdp_config.json").write_text(json.dumps({"world_size": processes}))
    archive(checkpoint / "data.pt")
    if told:
        (folder / LATEST).write_text(str(step))
    return checkpoint


@pytest.fixture
def kept(tmp_path) -> VerlCheckpoints:
    return VerlCheckpoints(tmp_path / "checkpoints", IDENTITY, 2)


def test_a_training_without_checkpoints_starts_at_step_0(kept):
    assert kept.begin() is None
    assert not (kept.path / LATEST).exists()


def test_a_checkpoint_is_sealed_when_verl_names_it_as_the_latest(kept):
    kept.begin()
    save(kept.path, 2, told=False)
    assert kept.seal_whole() == []
    (kept.path / LATEST).write_text("2")
    assert kept.seal_whole() == [2]
    assert damage_of(kept.at(2)) == ""
    assert kept.seal_whole() == []


@pytest.mark.parametrize(
    "gone",
    ["data.pt", "actor/model_world_size_2_rank_1.pt", "actor/extra_state_world_size_2_rank_0.pt",
     "actor/fsdp_config.json"],
)  # fmt: skip
def test_a_checkpoint_without_a_file_is_not_whole(kept, gone):
    save(kept.path, 2)
    (kept.at(2) / gone).unlink()
    assert kept.seal_whole() == []
    assert Path(gone).name in kept.missing_in(kept.at(2))


def with_weights(kept: VerlCheckpoints, step: int, role: str = "actor", rank: int = 1, value: float = 1.0) -> None:
    """Give the part of one GPU tensors, of which one has a value in one place."""
    weight = torch.ones(3, 4, dtype=torch.bfloat16)
    weight[2, 3] = value
    torch.save({"norm": torch.ones(2), "weight": weight}, kept.at(step) / role / shard_name("model", 2, rank))


@pytest.mark.parametrize("role", ["actor", "critic"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("rank", [0, 1])
def test_weights_that_are_not_finite_are_not_sealed(tmp_path, role, value, rank, caplog):
    kept = VerlCheckpoints(tmp_path / "checkpoints", IDENTITY, 2, critic=True)
    for step in (2, 4):
        save(kept.path, step, roles=("actor", "critic"))
        with_weights(kept, step)
    with_weights(kept, 4, role, rank, value)
    with pytest.raises(NumericError, match=r"VERL-E0605 step 4: found 1 tensors .* weight, at learning rate 1\.00e-06"):
        kept.seal_whole()
    assert [is_sealed(kept.at(step)) for step in (2, 4)] == [True, False]
    with caplog.at_level(logging.WARNING, "finetune"):
        assert kept.begin("true") == kept.at(2)
    assert "skipping global_step_4: step 4: 1 tensors with NaN or infinity" in caplog.text


def test_the_rate_that_was_logged_is_told(kept):
    save(kept.path, 4)
    with_weights(kept, 4, value=float("inf"))
    (kept.path / "metrics").mkdir()
    lines = [{"step": step, "data": {"actor/lr": rate}} for step, rate in ((2, 3e-4), (3, 2e-4), (5, 1e-4))]
    (kept.path / "metrics/from-000000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(NumericError, match=r"step 4: .*2\.00e-04"):
        kept.seal_whole()


def test_a_file_that_was_cut_off_is_not_whole(kept):
    checkpoint = save(kept.path, 2)
    file = checkpoint / "actor" / shard_name("optim", 2, 1)
    file.write_bytes(file.read_bytes()[:-30])
    assert "optim_world_size_2_rank_1.pt" in kept.missing_in(checkpoint)


def test_with_a_critic_its_files_belong_to_a_whole_checkpoint(tmp_path):
    kept = VerlCheckpoints(tmp_path, IDENTITY, 2, critic=True)
    save(tmp_path, 2)
    assert "critic/fsdp_config.json" in kept.missing_in(kept.at(2))
    save(tmp_path, 2, roles=("actor", "critic"))
    assert kept.missing_in(kept.at(2)) == ""


def test_the_newest_whole_one_is_resumed_and_verl_is_told_so(kept, caplog):
    caplog.set_level(logging.INFO)
    for step in (2, 4):
        save(kept.path, step)
        kept.seal_whole()
    torn = save(kept.path, 6, told=False)
    (torn / "data.pt").unlink()
    (kept.path / LATEST).write_text("")  # verl was killed when it wrote it
    assert kept.begin() == kept.at(4)
    assert (kept.path / LATEST).read_text() == "4"
    assert not torn.exists()  # verl writes it again
    assert "skipping global_step_6: data.pt missing or cut off" in caplog.text


def test_a_whole_one_that_no_process_could_seal_is_resumed(kept):
    kept.begin()
    save(kept.path, 2)
    assert kept.begin() == kept.at(2)
    assert is_sealed(kept.at(2))


def test_a_damaged_one_is_passed_over_and_damage_of_all_is_an_error(kept, caplog):
    for step in (2, 4):
        save(kept.path, step)
        kept.seal_whole()
    (kept.at(4) / "data.pt").write_bytes(b"other")
    assert kept.begin() == kept.at(2)
    assert "skipping global_step_4" in caplog.text
    (kept.at(2) / "data.pt").write_bytes(b"other")
    with pytest.raises(UserError, match=r"CHECKPOINT-E0101 .*global_step_2"):
        kept.begin()


def test_odd_folders_are_told_and_left_alone(kept, caplog):
    save(kept.path, 2)
    odd = [kept.path / name for name in ("global_step_abc", "global_step_20 (copy)", "global_step_007")]
    for folder in odd:
        folder.mkdir()
    assert kept.begin() == kept.at(2)
    assert all(f"skipping {folder.name}" in caplog.text for folder in odd)
    assert all(folder.is_dir() for folder in odd)


def test_the_newest_are_kept_and_only_whole_ones_count(tmp_path):
    kept = VerlCheckpoints(tmp_path, IDENTITY, 2, keep=2)
    for step in (2, 4, 6):
        save(tmp_path, step)
        kept.seal_whole()
    assert kept.steps() == [4, 6]
    save(tmp_path, 8, told=False)
    kept.seal_whole()
    assert kept.steps() == [4, 6, 8]


def test_checkpoints_of_other_settings_are_refused_with_the_difference(kept):
    save(kept.path, 2)
    kept.begin()
    other = VerlCheckpoints(kept.path, {**IDENTITY, "settings": {"actor_optim_lr": 1e-5}}, 2)
    with pytest.raises(UserError, match=r"VERL-E0103 .*actor_optim_lr was 1e-06, is 1e-05"):
        other.begin("true")
    assert other.begin("false") is None
    assert other.steps() == []


def test_a_checkpoint_of_another_number_of_gpus_is_refused(kept):
    save(kept.path, 2, processes=4)
    with pytest.raises(UserError, match=r"VERL-E0104 .*4 GPUs; expected one of 2"):
        kept.begin()


def test_a_named_checkpoint_is_taken_into_the_folder(kept, tmp_path):
    elsewhere = VerlCheckpoints(tmp_path / "elsewhere", IDENTITY, 2)
    for step in (2, 4):
        save(elsewhere.path, step)
        elsewhere.seal_whole()
    assert kept.begin(str(elsewhere.at(2))) == kept.at(2)
    assert damage_of(kept.at(2)) == ""
    assert (kept.path / LATEST).read_text() == "2"
    assert elsewhere.steps() == [2, 4]


def test_a_named_folder_that_this_project_did_not_seal_is_refused_because_verl_would_unpickle_it(kept, tmp_path):
    unsealed = save(tmp_path / "elsewhere", 2)
    with pytest.raises(UserError, match="VERL-E0102"):
        kept.begin(str(unsealed))
    with pytest.raises(UserError, match="VERL-E0101"):
        kept.begin(str(tmp_path))


@pytest.mark.parametrize(("name", "step"), [("global_step_20", 20), ("global_step_0", None), ("global_step_2x", None)])
def test_names_have_a_step(name, step):
    assert step_of(Path(name)) == step


@pytest.mark.slow
def test_a_training_that_is_killed_and_stopped_goes_on_from_its_newest_whole_checkpoint(tiny_model, tmp_path, caplog):
    model = as_imported(tiny_model, tmp_path / "model")
    second = tmp_path / "checkpoints" / "global_step_2"
    with pytest.raises(OutOfResources, match=r"VERL-E0503 .*SIGKILL") as killed:
        train_by_verl(training(tmp_path, model, fail="torn:4"))
    assert killed.value.resume_from == str(second)
    with pytest.raises(Preempted) as stopped, stopped_at("waiting", tmp_path / "checkpoints"):
        train_by_verl(training(tmp_path, model, fail="wait:4"))
    assert "skipping global_step_4" in caplog.text
    assert stopped.value.resume_from == str(second)
    history = train_by_verl(training(tmp_path, model))
    assert history["resumed_from"] == 2
    assert [one.step for one in read_all(tmp_path / "checkpoints")] == [1, 2, 3, 4]
    assert [point["loss"] for point in history["points"]] == [1, 1 / 2, 1 / 3, 1 / 4]
    learned = [value for name, value in load_file(tmp_path / "tuned" / "adapter_model.safetensors").items()
               if "lora_B" in name]  # fmt: skip
    assert all(torch.allclose(value, torch.full_like(value, 4 * 0.01)) for value in learned)
    # A task that is started again after its last step has nothing left to train, and writes the same result.
    merged = (tmp_path / "merged" / "model.safetensors").read_bytes()
    again = train_by_verl(training(tmp_path, model))
    assert (again["steps"], again["resumed_from"]) == (4, 4)
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == merged
