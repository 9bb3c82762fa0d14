"""Every training parameter has the effect in its description, seen from outside: steps, rates, weights, files."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from training_inputs import settings_with

from steps.finetune.step import finetune
from steps.params.lora import LoraParams
from steps.params.training import CheckpointParams

pytestmark = pytest.mark.slow
ROWS, VALIDATION_ROWS = 40, 16  # of chat_inputs
ONE_PLAIN_STEP = {"max_steps": 1, "warmup_steps": 0, "lr_scheduler_type": "constant"}


@pytest.fixture
def run(chat_inputs, tmp_path):
    """Train with these parameters; gives the history, the weights and the names of the checkpoints that were kept."""

    def train(name: str = "run", lora: dict | None = None, checkpoints: dict | None = None, **training):
        model, data = chat_inputs
        out = tmp_path / name
        settings = settings_with(
            {"evaluation_strategy": "no", "num_train_epochs": 1, **training},
            lora=LoraParams(**(lora or {})),
            checkpoints=CheckpointParams(**{"keep_checkpoints": "true", **(checkpoints or {})}),
        )
        finetune(settings, model, data, out / "tuned", out / "checkpoints", out / "report.html")
        history = json.loads((out / "tuned/history.json").read_text())
        place = json.loads((out / "checkpoints/manifest.json").read_text())["facts"]["folder"]
        kept = sorted(folder.name for folder in Path(place).glob("checkpoint-*"))
        return SimpleNamespace(
            **history,
            losses=[point["loss"] for point in history["points"]],
            rates=[point["learning_rate"] for point in history["points"]],
            weights=tensors(next((out / "tuned").glob("*model.safetensors"))),
            kept=kept,
        )

    return train


def tensors(file: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(file)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, 10),
        ({"num_train_epochs": 0.5}, 5),
        ({"num_train_epochs": 2}, 20),
        ({"max_steps": 3, "num_train_epochs": 2}, 3),
        ({"per_device_train_batch_size": 8}, 5),
        ({"gradient_accumulation_steps": 5}, 2),
    ],
)
def test_rows_passes_and_batches_make_the_steps(run, given, steps):
    assert run(**given).steps == steps


def test_accumulated_batches_learn_what_one_batch_of_their_size_does(run):
    whole = run("whole", per_device_train_batch_size=4)
    halves = run("halves", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert halves.losses == pytest.approx(whole.losses, abs=1e-5)


def test_an_evaluation_takes_as_many_rows_at_a_time_as_it_is_told(run, monkeypatch):
    from trl import SFTTrainer

    sizes: list[int] = []
    plain = SFTTrainer.prediction_step

    def counted(self, model, inputs, *rest, **more):
        sizes.append(len(inputs["input_ids"]))
        return plain(self, model, inputs, *rest, **more)

    monkeypatch.setattr(SFTTrainer, "prediction_step", counted)
    given = {"evaluation_strategy": "epoch", "max_steps": 10}
    single = run("single", per_device_eval_batch_size=1, **given)
    assert sizes == [1] * VALIDATION_ROWS
    sizes.clear()
    several = run("several", per_device_eval_batch_size=8, **given)
    assert sizes == [8, 8]
    assert several.evaluations[0]["loss"] == pytest.approx(single.evaluations[0]["loss"], abs=1e-5)


def test_the_rate_is_the_highest_of_the_schedule(run):
    assert max(run(learning_rate=3e-4, warmup_steps=0).rates) == pytest.approx(3e-4)


def test_weights_decay_by_their_share_but_not_those_of_normalisation(run):
    plain = run("plain", learning_rate=1e-2, weight_decay=0.0, **ONE_PLAIN_STEP).weights
    decayed = run("decayed", learning_rate=1e-2, weight_decay=0.5, **ONE_PLAIN_STEP).weights
    nothing = run("nothing", learning_rate=1e-12, weight_decay=0.0, **ONE_PLAIN_STEP).weights
    for name, weight in nothing.items():
        expected = 0 * weight if "norm" in name else 1e-2 * 0.5 * weight  # AdamW: w ← w − rate · decay · w
        assert (plain[name] - decayed[name]).numpy() == pytest.approx(expected.numpy(), abs=1e-6), name


def test_gradients_are_scaled_down_to_the_norm_that_is_allowed(run):
    before = run("before", learning_rate=1e-12, optim="sgd", **ONE_PLAIN_STEP).weights
    clipped = run("clipped", learning_rate=1.0, optim="sgd", weight_decay=0.0, max_grad_norm=0.01, **ONE_PLAIN_STEP)
    free = run("free", learning_rate=1.0, optim="sgd", weight_decay=0.0, max_grad_norm=0.0, **ONE_PLAIN_STEP)

    def moved(after: dict) -> float:
        return sum(float((after[name] - before[name]).double().square().sum()) for name in before) ** 0.5

    assert moved(clipped.weights) == pytest.approx(0.01, rel=1e-3)
    assert moved(free.weights) == pytest.approx(free.points[0]["grad_norm"], rel=1e-3)
    assert free.points[0]["grad_norm"] > 0.1


def test_half_precision_computes_in_sixteen_bits_and_keeps_the_weights_type(run):
    import torch

    whole, half, again = (
        run(name, precision=bits, max_steps=4) for name, bits in (("a", "32"), ("b", "16"), ("c", "16"))
    )
    assert half.losses == again.losses
    assert half.losses != whole.losses
    assert half.losses == pytest.approx(whole.losses, rel=0.02)
    assert {tensor.dtype for tensor in half.weights.values()} == {torch.float32}


def test_the_seed_decides_the_order_of_the_rows(run):
    first, same, other = (run(name, seed=seed, max_steps=4) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert first.losses == same.losses
    assert first.losses != other.losses


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"evaluation_strategy": "no"}, []),
        ({"evaluation_strategy": "epoch", "num_train_epochs": 2}, [10, 20]),
        ({"evaluation_strategy": "steps", "eval_steps": 4}, [4, 8, 10]),  # and after the last step
    ],
)
def test_evaluations_come_when_they_are_asked_for_and_each_has_its_checkpoint(run, given, steps):
    done = run(**given)
    assert [one["step"] for one in done.evaluations] == steps
    if steps:
        assert {f"checkpoint-{step}" for step in steps} <= set(done.kept)


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"logging_strategy": "epoch", "num_train_epochs": 2}, [10, 20]),
        ({"logging_strategy": "steps", "logging_steps": 4}, [4, 8]),
    ],
)
def test_log_lines_come_when_they_are_asked_for(run, given, steps):
    assert [point["step"] for point in run(**given).points] == steps


def test_old_checkpoints_go_but_the_best_one_stays(run):
    given = {"evaluation_strategy": "steps", "eval_steps": 2}
    everything = run("all", **given)
    assert everything.kept == ["checkpoint-10", "checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
    two = run("two", checkpoints={"save_total_limit": 2}, **given)
    best = f"checkpoint-{two.best['step']}"
    assert len(two.kept) == 2 + (best not in ("checkpoint-8", "checkpoint-10"))
    assert best in two.kept


def test_checkpoints_come_between_evaluations_too(run):
    assert {"checkpoint-3", "checkpoint-6", "checkpoint-9"} <= set(run(checkpoints={"save_steps": 3}).kept)


@pytest.mark.parametrize("patience", [1, 3])
def test_training_stops_after_as_many_evaluations_without_improvement(run, patience):
    given = {"evaluation_strategy": "steps", "eval_steps": 1, "apply_early_stopping": True, "max_steps": 9}
    done = run(early_stopping_patience=patience, early_stopping_threshold=100.0, **given)
    assert done.stopped_early
    assert done.steps == 1 + patience  # the first evaluation is the best so far, whatever it is


def test_rank_and_scale_shape_the_adapter(run):
    small = run("small", lora={"apply_lora": True, "lora_r": 2, "lora_alpha": 4}, **ONE_PLAIN_STEP)
    large = run("large", lora={"apply_lora": True, "lora_r": 6, "lora_alpha": 4}, **ONE_PLAIN_STEP)
    ranks = [{t.shape[0] for name, t in one.weights.items() if "lora_A" in name} for one in (small, large)]
    assert ranks == [{2}, {6}]
    louder = run("louder", lora={"apply_lora": True, "lora_r": 2, "lora_alpha": 8}, max_steps=3, warmup_steps=0)
    softer = run("softer", lora={"apply_lora": True, "lora_r": 2, "lora_alpha": 4}, max_steps=3, warmup_steps=0)
    assert louder.losses[0] == softer.losses[0]  # lora_B is zero, so no scale is seen yet
    assert louder.losses[-1] < softer.losses[-1]


def test_dropout_of_the_adapter_is_there_while_training(run):
    adapter = {"apply_lora": True, "lora_r": 2}
    plain = run("plain", lora=adapter, max_steps=3)
    dropped = run("dropped", lora={**adapter, "lora_dropout": 0.5}, max_steps=3)
    assert dropped.losses[-1] != plain.losses[-1]
    assert run("some", lora={**adapter, "lora_target_modules": "q_proj"}, max_steps=1).parameters["trainable"] == 2 * (
        2 * 64 + 2 * 64  # in each of two layers A and B of q_proj, 64 wide
    )
