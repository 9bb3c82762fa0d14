"""Every optimizer and every schedule that can be selected is used by the training."""

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import get_args

import pytest
from conftest import chat_rows, write_jsonl
from training_inputs import settings_with

from steps.errors import UserError
from steps.finetune.packages import refuse_missing
from steps.finetune.step import finetune
from steps.params.reading import read_parameters
from steps.params.training import OPTIMIZER_PACKAGES, TrainingParams
from steps.plan.step import plan

OPTIMIZERS = get_args(TrainingParams.model_fields["optim"].annotation)
SCHEDULES = get_args(TrainingParams.model_fields["lr_scheduler_type"].annotation)
# The class that each optimizer is, by its name alone.
CLASSES = {
    "adamw_hf": "AdamW", "adamw_torch": "AdamW", "adamw_torch_fused": "AdamW", "adafactor": "Adafactor",
    "ademamix": "AdEMAMix", "sgd": "SGD", "adagrad": "Adagrad", "rmsprop": "RMSprop", "galore_adamw": "AdamW",
    "grokadamw": "GrokAdamW", "schedule_free_sgd": "SGDScheduleFree",
}  # fmt: skip
ENOUGH = {"pytorch_model_path": "m", "train_file_path": "t.jsonl"}


def train(out: Path, inputs: tuple[Path, Path], **training) -> dict:
    training = {"evaluation_strategy": "no", "learning_rate": 1e-2, "warmup_steps": 0, **training}
    model, data = inputs
    finetune(settings_with(training), model, data, out / "tuned", out / "checkpoints", out / "report.html")
    return json.loads((out / "tuned/history.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_trains_and_is_the_one_that_was_asked_for(chat_inputs, tmp_path, monkeypatch, optimizer):
    from transformers import Trainer

    used = []
    plain = Trainer.training_step

    def step(self, *rest, **more):
        used.append(type(getattr(self.optimizer, "optimizer", self.optimizer)))
        return plain(self, *rest, **more)

    monkeypatch.setattr(Trainer, "training_step", step)
    points = train(tmp_path, chat_inputs, optim=optimizer, max_steps=3)["points"]
    assert {kind.__name__ for kind in used} == {CLASSES[optimizer]}
    assert ("galore" in used[0].__module__) == (optimizer == "galore_adamw")
    assert points[-1]["loss"] < points[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "reduce_lr_on_plateau"])
def test_every_schedule_gives_the_rates_of_transformers_own(chat_inputs, tmp_path, schedule):
    import torch
    from transformers import get_scheduler

    points = train(tmp_path, chat_inputs, lr_scheduler_type=schedule, max_steps=8, warmup_steps=3)["points"]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = get_scheduler(schedule, optimizer, num_warmup_steps=3, num_training_steps=8)
    rates = []
    for _ in range(8):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [point["learning_rate"] for point in points] == pytest.approx(rates)


@pytest.mark.slow
def test_the_rate_falls_when_the_evaluations_stop_getting_better(chat_inputs, tmp_path):
    given = {"evaluation_strategy": "steps", "eval_steps": 1, "learning_rate": 1e-6, "max_steps": 16}
    history = train(tmp_path, chat_inputs, lr_scheduler_type="reduce_lr_on_plateau", optim="sgd", **given)
    rates = [point["learning_rate"] for point in history["points"]]
    assert rates[0] == pytest.approx(1e-6)
    assert min(rates) < 0.5e-6


@pytest.mark.slow
def test_a_share_of_the_steps_warms_up_unless_steps_are_given(chat_inputs, tmp_path):
    share = train(tmp_path / "a", chat_inputs, max_steps=10, warmup_ratio=0.3)["points"]
    steps = train(tmp_path / "b", chat_inputs, max_steps=10, warmup_steps=3)["points"]
    both = train(tmp_path / "c", chat_inputs, max_steps=10, warmup_steps=3, warmup_ratio=0.9)["points"]
    rates = [[point["learning_rate"] for point in points] for points in (share, steps, both)]
    assert rates[0] == rates[1] == rates[2]
    assert rates[0].index(max(rates[0])) == 3


@pytest.mark.parametrize(("optimizer", "package"), OPTIMIZER_PACKAGES.items())
def test_a_missing_package_is_named_before_anything_is_loaded(tiny_model, tmp_path, monkeypatch, optimizer, package):
    import steps.finetune.packages as packages
    from steps.plan import packages as beside_the_plan

    there, found = packages.find_spec, beside_the_plan.version

    def version(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(beside_the_plan, "version", version)
    hidden = lambda name: None if name == package.replace("-", "_") else there(name)  # noqa: E731
    monkeypatch.setattr(packages, "find_spec", hidden)
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    file = write_jsonl(tmp_path / "train.jsonl", chat_rows(40))
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(file), "number_of_gpu_to_use_finetuning": 0}
    with pytest.raises(UserError, match=f"PLAN-E0311 optim: found {optimizer}, but the package {package} is missing"):
        plan("chat_completion", {**given, "optim": optimizer}, tmp_path / "plan", tmp_path / "plan.html")
    with pytest.raises(UserError, match=rf"TRAIN-E0203 .*pip install {package}"):
        refuse_missing(settings_with({"optim": optimizer}))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "evaluation_strategy": "no"}, "PARAM-E0212 lr_scheduler_type"),
        ({"optim": "galore_adamw", "apply_lora": True}, "PARAM-E0213 optim"),
        ({"warmup_ratio": 1.0}, "warmup_ratio: found 1.0; expected a number below 1"),
        ({"optim": "muon"}, "PARAM-E0102 optim"),
    ],
)
def test_what_cannot_work_is_refused(given, words):
    with pytest.raises(UserError, match=words):
        read_parameters("chat_completion", {**ENOUGH, **given})


def test_an_empty_schedule_is_the_usual_one():
    parameters = read_parameters("chat_completion", {**ENOUGH, "lr_scheduler_type": ""}).parameters
    assert parameters.lr_scheduler_type == "linear"
