"""A batch that does not fit into memory is halved; the training is otherwise the same."""

import json
from pathlib import Path

import pytest
from conftest import chat_rows
from training_inputs import as_imported, settings_with, write_tokens

from steps.errors import OutOfResources
from steps.finetune.batch_size import fitted, ran_out, smaller
from steps.finetune.step import finetune


@pytest.mark.parametrize(
    ("given", "expected"),
    [((8, 1), (4, 2)), ((4, 2), (2, 4)), ((2, 3), (1, 6)), ((6, 1), (3, 2)), ((3, 2), (1, 6)), ((5, 1), (1, 5)),
     ((5, 2), (2, 5)), ((7, 4), (2, 14)), ((9, 1), (3, 3)), ((64, 1), (32, 2))],
)  # fmt: skip
def test_half_a_batch_has_the_same_effective_batch(given, expected):
    assert smaller(*given) == expected


def test_every_batch_shrinks_to_one_row_in_at_most_as_many_halvings_as_it_has_bits():
    for size in range(2, 130):
        for accumulation in (1, 2, 3, 7):
            batch, halvings = (size, accumulation), 0
            while batch[0] > 1:
                batch, halvings = smaller(*batch), halvings + 1
                assert batch[0] * batch[1] == size * accumulation
            assert halvings < size.bit_length()
    with pytest.raises(ValueError, match="cannot be halved"):
        smaller(1, 8)


def test_only_a_lack_of_memory_is_tried_again():
    tried = []

    def attempt(settings):
        tried.append(settings.training.per_device_train_batch_size)
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        fitted(settings_with({"auto_find_batch_size": True}), attempt)
    assert tried == [4]


@pytest.mark.slow
def test_the_library_knows_the_errors_of_gpus_and_of_the_host():
    import torch

    assert ran_out(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert ran_out(RuntimeError("CUDA out of memory. Tried to allocate"))
    assert ran_out(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not ran_out(RuntimeError("shapes do not match"))


@pytest.fixture
def inputs(tiny_model, tmp_path, monkeypatch) -> tuple[Path, Path]:
    from transformers import AutoTokenizer

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    model = as_imported(tiny_model, tmp_path / "model")
    return model, write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(tiny_model), chat_rows(56))


def memory_for(monkeypatch, rows: int, after: int = 0) -> list[int]:
    """Let memory run out for batches of more rows, once `after` steps are done; gives the sizes that were tried."""
    import torch
    from transformers import Trainer

    plain, tried = Trainer.training_step, []

    def step(self, model, inputs, *rest, **more):
        size = len(inputs["input_ids"])
        tried.append(size)
        if size > rows and self.state.global_step >= after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …")
        return plain(self, model, inputs, *rest, **more)

    monkeypatch.setattr(Trainer, "training_step", step)
    return tried


def train(out: Path, inputs: tuple[Path, Path], **training) -> dict:
    training = {"per_device_train_batch_size": 8, "num_train_epochs": 1, **training}
    model, data = inputs
    finetune(settings_with(training), model, data, out / "tuned", out / "checkpoints", out / "report.html")
    return json.loads((out / "tuned/history.json").read_text())


@pytest.mark.slow
def test_the_batch_is_halved_until_it_fits_and_the_losses_are_those_of_the_whole(inputs, tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", inputs)
    tried = memory_for(monkeypatch, rows=2)
    found = train(tmp_path / "found", inputs, auto_find_batch_size=True)
    assert tried[:3] == [8, 4, 2]
    assert found["batch"] == {"per_device": 2, "accumulated": 4}
    assert (found["steps"], found["planned_steps"]) == (whole["steps"], whole["planned_steps"]) == (5, 5)
    for name in ("loss", "learning_rate"):
        assert [point[name] for point in found["points"]] == pytest.approx(
            [point[name] for point in whole["points"]], rel=1e-4
        )
    assert "accumulated 4 times" in (tmp_path / "found/report.html").read_text()


@pytest.mark.slow
def test_steps_done_with_a_larger_batch_are_not_repeated(inputs, tmp_path, monkeypatch):
    whole = train(tmp_path / "whole", inputs, num_train_epochs=2)
    memory_for(monkeypatch, rows=4, after=7)  # the first epoch has 5 steps, and a checkpoint at its end
    found = train(tmp_path / "found", inputs, num_train_epochs=2, auto_find_batch_size=True)
    assert found["resumed_from"] == 5
    assert found["batch"] == {"per_device": 4, "accumulated": 2}
    assert [point["loss"] for point in found["points"]] == pytest.approx(
        [point["loss"] for point in whole["points"]], rel=1e-4
    )


@pytest.mark.slow
def test_without_the_switch_and_for_one_row_the_user_is_told_what_to_change(inputs, tmp_path, monkeypatch):
    memory_for(monkeypatch, rows=0)
    with pytest.raises(OutOfResources, match="TRAIN-E0501 step 1, batch 8"):
        train(tmp_path / "a", inputs)
    with pytest.raises(OutOfResources, match="TRAIN-E0501 step 1, batch 1"):
        train(tmp_path / "b", inputs, auto_find_batch_size=True)
