"""A disk that fills while a checkpoint is saved costs only this one, and the training goes on from the one before."""

import errno
import os
from pathlib import Path

import pytest
from training_inputs import settings_with, train

from steps.errors import OutOfResources
from steps.exhausted import is_out_of_space
from steps.finetune.checkpoints.removing import drop_broken
from steps.params.training import CheckpointParams
from steps.sealed import damage_of, seal_folder

STEPS = {"max_steps": 6, "num_train_epochs": 1}


def full(path: Path) -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def saved(folder: Path, step: int, whole: bool) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir()
    (checkpoint / "optimizer.pt").write_bytes(b"x" * 300_000)
    if whole:
        seal_folder(checkpoint, {})
    return checkpoint


@pytest.mark.parametrize("earlier", [True, False])
def test_only_the_broken_checkpoint_is_deleted_and_the_need_is_told(tmp_path, earlier):
    before = [saved(tmp_path, step, whole=True) for step in (2, 4)] if earlier else []
    broken = saved(tmp_path, 6, whole=False)
    error = drop_broken(tmp_path, full(broken / "optimizer.pt"))
    assert [path.name for path in sorted(tmp_path.iterdir())] == [path.name for path in before]
    assert all(damage_of(one) == "" for one in before)
    told = str(error)
    assert f"CHECKPOINT-E0108 {broken}: found no space left on the volume " in told
    assert ("expected 0.3 MB for each checkpoint" if earlier else "expected more than 0.3 MB for each one") in told
    assert error.resume_from == (str(before[-1]) if earlier else "")


def test_another_error_leaves_every_checkpoint_as_it_is(tmp_path):
    saved(tmp_path, 2, whole=False)
    assert drop_broken(tmp_path, ValueError("x")) is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["optimizer.pt", "manifest.json"])
def test_a_training_whose_second_checkpoint_fills_the_disk_goes_on_bit_for_bit(
    model, data, tmp_path, local_root, monkeypatch, file
):
    import torch

    from steps import sealed

    settings = settings_with(STEPS, checkpoints=CheckpointParams(save_steps=2, save_total_limit=1))
    torch_save, write = torch.save, sealed.write_durably

    def is_second(path: object) -> bool:
        return str(path).endswith(f"checkpoint-4/{file}")

    def save(value: object, path: object, *more: object, **options: object) -> None:
        if is_second(path):
            Path(str(path)).write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file data/1") from full(Path(str(path)))
        torch_save(value, path, *more, **options)

    def write_durably(path: Path, text: str) -> None:
        if is_second(path):
            raise full(path)
        write(path, text)

    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr(sealed, "write_durably", write_durably)
    with pytest.raises(OutOfResources, match="CHECKPOINT-E0108") as raised:
        train(settings, model, data, tmp_path / "out")
    assert is_out_of_space(raised.value.__cause__)
    (left,) = local_root.glob("checkpoints/*/*/checkpoint-*")
    assert (left.name, damage_of(left), raised.value.resume_from) == ("checkpoint-2", "", str(left))
    assert not (tmp_path / "out/tuned").exists()
    monkeypatch.setattr(torch, "save", torch_save)
    monkeypatch.setattr(sealed, "write_durably", write)
    again = settings_with(STEPS, checkpoints=CheckpointParams(save_steps=2, resume_from_checkpoint="auto"))
    history = train(again, model, data, tmp_path / "out")
    assert history["resumed_from"] == 2
    weights = (tmp_path / "out/tuned/model.safetensors").read_bytes()
    fresh = settings_with(STEPS, checkpoints=CheckpointParams(save_steps=2, resume_from_checkpoint="false"))
    train(fresh, model, data, tmp_path / "unbroken")
    assert (tmp_path / "unbroken/tuned/model.safetensors").read_bytes() == weights
