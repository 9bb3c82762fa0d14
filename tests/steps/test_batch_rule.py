"""A total batch size is converted to rows per device and accumulation, and the learning rate is scaled."""

import json
import math
import re

import pytest
from conftest import chat_rows, write_jsonl

from steps import wire
from steps.errors import UserError
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings
from steps.plan.batch_rule import split_total
from steps.plan.step import plan


@pytest.mark.parametrize(
    ("total", "devices", "most", "expected"),
    [
        (512, 8, 4, (4, 16)), (12, 1, 5, (4, 3)), (7, 1, 4, (1, 7)), (7, 7, 4, (1, 1)), (8, 1, 8, (8, 1)),
        (8, 1, 100, (8, 1)), (8, 1, 1, (1, 8)), (6, 2, 2, (1, 3)), (1, 1, 1, (1, 1)), (96, 3, 10, (8, 4)),
        (128, 64, 1, (1, 2)), (1024, 64, 6, (4, 4)), (30, 1, 7, (6, 5)), (97, 1, 96, (1, 97)),
    ],
)  # fmt: skip
def test_the_rule_gives_the_values_calculated_by_hand(total, devices, most, expected):
    assert split_total(total, devices, most) == expected


def test_no_fewer_passes_would_do_for_any_number_of_devices():
    for share in range(1, 65):
        for most in (1, 2, 3, 5, 8, 16, 100):
            size, passes = split_total(share, 1, most)
            assert (size * passes, size <= most) == (share, True)
            assert all(share % fewer or share // fewer > most for fewer in range(1, passes))
            for devices in range(2, 65):  # they only share the total
                assert split_total(devices * share, devices, most) == (size, passes)


@pytest.mark.parametrize(("total", "devices", "most"), [(10, 4, 2), (8, 1, 0), (0, 1, 4), (8, 2, -1)])
def test_what_cannot_be_shared_is_refused_at_once(total, devices, most):
    with pytest.raises(ValueError, match="cannot be split over"):
        split_total(total, devices, most)


@pytest.fixture
def planned(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    file = write_jsonl(tmp_path / "chat.jsonl", chat_rows(60))

    def run(**changes) -> tuple[FinetuneSettings, DataSettings, EvaluationSettings]:
        given = {
            "pytorch_model_path": str(tiny_model),
            "train_file_path": str(file),
            "number_of_gpu_to_use_finetuning": 0,
        }
        made = plan("chat_completion", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
        return (FinetuneSettings.model_validate(wire.load(made.training)),
                DataSettings.model_validate(wire.load(made.data)),
                EvaluationSettings.model_validate(wire.load(made.evaluation)))  # fmt: skip

    return run


def test_the_plan_hands_on_what_the_rule_gives(planned, tmp_path):
    training, data, evaluation = planned(total_train_batch_size=12, max_per_device_train_batch_size=5)
    assert training.training.per_device_train_batch_size == 4
    assert training.training.gradient_accumulation_steps == 3
    assert data.rows_per_step == 12
    assert evaluation.batch_size == training.training.per_device_eval_batch_size == 4
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    assert told["requested"]["total_train_batch_size"] == 12
    assert told["effective"]["per_device_train_batch_size"] == 4
    assert any("4 per device × 1 device × 3 accumulated" in str(line) for line in told["arithmetic"])


def test_an_evaluation_batch_that_was_asked_for_stays(planned):
    given = {"total_train_batch_size": 12, "max_per_device_train_batch_size": 5, "per_device_eval_batch_size": 2}
    assert planned(**given)[2].batch_size == 2


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 1),
        ({"lr_multiplier": 2.5}, 2.5),
        ({"lr_batch_size_scaling": "sqrt"}, math.sqrt(12)),
        ({"lr_batch_size_scaling": "linear", "lr_multiplier": 0.5}, 6),
    ],
)
def test_the_learning_rate_follows_the_batch(planned, changes, factor):
    batch = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 3}
    assert planned(learning_rate=1e-3, **batch, **changes)[0].training.learning_rate == pytest.approx(1e-3 * factor)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"total_train_batch_size": 8}, "PARAM-E0216 max_per_device_train_batch_size: found 0"),
        ({"max_per_device_train_batch_size": 8}, "PARAM-E0216 .*8 without total_train_batch_size"),
        ({"total_train_batch_size": 8, "max_per_device_train_batch_size": -1}, "PARAM-E0103 max_per_device"),
        (
            {"total_train_batch_size": 8, "max_per_device_train_batch_size": 4, "per_device_train_batch_size": 2},
            "PARAM-E0217 per_device_train_batch_size",
        ),
        (
            {"total_train_batch_size": 8, "max_per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
            "PARAM-E0217 gradient_accumulation_steps",
        ),
    ],
)
def test_contradictory_or_incomplete_batch_parameters_are_refused(planned, changes, words):
    with pytest.raises(UserError) as caught:
        planned(**changes)
    assert re.search(words, str(caught.value))


def test_a_total_that_the_devices_cannot_share_names_the_nearest():
    from steps.params.pipelines.chat_completion import ChatCompletionParameters
    from steps.plan.batch_rule import resolved

    given = ChatCompletionParameters(
        pytorch_model_path="m", train_file_path="t", number_of_gpu_to_use_finetuning=4, total_train_batch_size=10,
        max_per_device_train_batch_size=2,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"PLAN-E0315 .*found 10 over 4 devices.*set it to 8 or 12"):
        resolved(given)
