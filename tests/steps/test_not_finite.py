"""Weights that are not finite are neither a checkpoint nor a result, and the error names the step and its rows."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from training_inputs import settings_with, train

from steps.errors import NumericError
from steps.params.training import CheckpointParams


class Stepping:
    """As much of the Trainer as reads rows and passes them on: rows are read one pass ahead, as accelerate does."""

    def __init__(self, count: int, bad: int | None = None):
        from datasets import Dataset

        self.rows = Dataset.from_dict({"place": list(range(count)), "unused": [0] * count})
        self.bad, self.state, self.learned = bad, SimpleNamespace(global_step=0), []

    def get_train_dataloader(self):
        import torch

        rows = self.rows.remove_columns("unused")
        return torch.utils.data.DataLoader(rows, batch_size=2, shuffle=True, collate_fn=lambda found: found)

    def training_step(self, model, inputs):
        import torch

        places = [row["place"] for row in inputs]
        self.learned.append(places)
        return torch.tensor(float("nan") if self.bad in places else 1.0)

    def train(self, epochs: int, accumulated: int = 2) -> None:
        from accelerate.data_loader import DataLoaderShard

        loader = self.get_train_dataloader()
        ahead = DataLoaderShard(loader.dataset, batch_sampler=loader.batch_sampler, collate_fn=loader.collate_fn)
        for _ in range(epochs):
            for number, inputs in enumerate(ahead, 1):
                self.training_step(None, inputs)
                self.state.global_step += number % accumulated == 0


@pytest.mark.parametrize("bad", [0, 7, 13])
def test_the_first_pass_that_was_not_finite_is_named_with_its_rows(bad):
    from steps.finetune.finite import Batches

    trainer, batches = Stepping(16, bad), Batches()
    with batches.watching(trainer):
        trainer.train(epochs=1)
    assert not vars(trainer).keys() & {"get_train_dataloader", "training_step"}
    place = next(number for number, places in enumerate(trainer.learned) if bad in places)
    rows = ", ".join(map(str, trainer.learned[place]))
    assert batches.told() == f"; first in step {place // 2 + 1} with the sequences {rows} of tokens/train.parquet"


def test_the_rows_of_the_last_step_are_named_if_every_loss_was_finite():
    from steps.finetune.finite import Batches

    trainer, batches = Stepping(16), Batches()
    with batches.watching(trainer):
        trainer.train(epochs=3)
    batches.forget()
    rows = ", ".join(map(str, trainer.learned[-2] + trainer.learned[-1]))
    assert batches.told() == f"; after step 12 with the sequences {rows} of tokens/train.parquet"
    assert Batches().told() == ""


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_are_looked_at_as_far_as_they_are_trained(value):
    import torch

    from steps.finetune.finite import not_finite

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert not_finite(model) == []
    model[1].weight.data[1, 1] = float(value)
    assert not_finite(model) == ["1.weight"]
    model[1].requires_grad_(False)
    assert not_finite(model) == []
    model.requires_grad_(False)
    assert not_finite(model) == []


@pytest.mark.slow
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_training_whose_weights_break_between_two_log_events_leaves_only_what_was_before(
    model, data, tmp_path, local_root, monkeypatch, value
):
    from steps.finetune.watching import Checkpoints

    asked = Checkpoints.on_step_end

    def broken(self, args, state, control, **given):
        if state.global_step == 3:
            weights = given["model"].get_parameter("model.layers.0.mlp.up_proj.weight")
            weights.data[0, 0] = float(value)
        return asked(self, args, state, control, **given)

    monkeypatch.setattr(Checkpoints, "on_step_end", broken)
    often = CheckpointParams(save_steps=1, save_total_limit=9, keep_checkpoints="true")
    settings = settings_with({"logging_steps": 100, "max_steps": 6}, checkpoints=often)
    with pytest.raises(NumericError) as raised:
        train(settings, model, data, tmp_path / "out")
    (problem,) = raised.value.problems
    assert raised.value.exit_code == 6
    assert problem.where == "step 3"
    said = r"1 tensors .*up_proj\.weight, at learning rate [-0-9.e]+; after step 3 with the sequences (\d+, )+\d+ of"
    assert re.search(said, problem.found), problem.found
    sealed = [file.parent.name for file in sorted(Path(local_root).rglob("checkpoint-*/manifest.json"))]
    assert sealed == ["checkpoint-1", "checkpoint-2"]
    assert not (tmp_path / "out/tuned").exists()
