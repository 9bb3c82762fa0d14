"""The plan refuses parameters that a preference method does not support, with an alternative."""

import json
import re
from pathlib import Path

import pytest
from conftest import write_jsonl
from preferences import pair_rows, rated_rows

from steps import wire
from steps.errors import UserError
from steps.kinds.methods import METHODS
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings
from steps.plan.step import plan


@pytest.fixture
def given(tiny_model, tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    file = write_jsonl(tmp_path / "train.jsonl", pair_rows(90))
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(file), "number_of_gpu_to_use_finetuning": 0,
            "per_device_train_batch_size": 4}  # fmt: skip


def planned(given: dict, tmp_path: Path, **changes):
    return plan("preference", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")


@pytest.mark.parametrize(
    ("method", "trainer"),
    [
        ("dpo", "preference:build"),
        ("ipo", "preference:build"),
        ("kto", "kto:build"),
        ("orpo", "without_reference:build_orpo"),
        ("cpo", "without_reference:build_cpo"),
        ("simpo", "without_reference:build_cpo"),
    ],
)
def test_the_method_chooses_the_trainer_and_the_rows(given, tmp_path, method, trainer):
    made = planned(given, tmp_path, method=method, beta=0.4)
    training = FinetuneSettings.model_validate(wire.load(made.training))
    data = DataSettings.model_validate(wire.load(made.data))
    evaluation = EvaluationSettings.model_validate(wire.load(made.evaluation))
    rows = "kto" if method == "kto" else "preference"
    assert training.recipe.trainer == f"steps.finetune.trainers.{trainer}"
    assert training.preferred.losses == [next(iter(METHODS[method].losses))]
    assert (data.task, evaluation.task, data.kind, evaluation.kind) == (rows, rows, "causal_lm", "causal_lm")
    assert {data.method, evaluation.method} == {method}
    assert (data.max_prompt_length, evaluation.beta) == (1536, 0.4)
    assert data.columns.keys() >= ({"completion_key"} if method == "kto" else {"chosen_key"})
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    assert any(f"{method}, all weights" in task["what"] for task in told["tasks"])
    parts = told["memory"]["parts"]
    assert ("reference model" in parts) is (method in ("dpo", "ipo", "kto"))


def test_pairs_for_kto_are_taken_apart_and_counted_twice(given, tmp_path):
    made = planned(
        given, tmp_path, method="kto", kto_rows="pairs", chosen_key="better", gate_metric="preference_accuracy"
    )
    data = DataSettings.model_validate(wire.load(made.data))
    assert (data.task, data.unpairs, data.columns["chosen_key"]) == ("preference", True, "better")
    lines = {line["name"]: line for line in json.loads((tmp_path / "plan/plan.json").read_text())["arithmetic"]}
    assert lines["training rows"]["value"] == 144  # 80 % of 90 pairs, twice
    assert lines["optimizer steps"]["value"] == 36


@pytest.mark.parametrize("precompute", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_a_second_model_is_counted_only_where_there_is_one(given, tmp_path, precompute, lora):
    planned(given, tmp_path, precompute_ref_log_probs=precompute, apply_lora=lora)
    parts = json.loads((tmp_path / "plan/plan.json").read_text())["memory"]["parts"]
    assert ("reference model" in parts) is not (precompute or lora)


def test_rated_answers_stand_alone_in_a_batch_and_need_half_the_memory_of_pairs(given, tmp_path):
    kept = {}
    for method in ("dpo", "kto"):
        planned(given, tmp_path, method=method)
        kept[method] = json.loads((tmp_path / "plan/plan.json").read_text())["memory"]["parts"]["activations"]
    assert kept["dpo"] == 2 * kept["kto"]


def test_a_batch_that_follows_from_its_total_must_fit_the_loss_too(given, tmp_path):
    total = {"per_device_train_batch_size": 1, "total_train_batch_size": 8}
    planned(given, tmp_path, method="kto", **total, max_per_device_train_batch_size=2)
    with pytest.raises(UserError, match="PARAM-E0256 per_device_train_batch_size"):
        planned(given, tmp_path, method="kto", **total, max_per_device_train_batch_size=1)


@pytest.mark.parametrize("loss", METHODS["dpo"].losses)
def test_every_loss_of_dpo_is_accepted(given, tmp_path, loss):
    smooth = {"label_smoothing": 0.01} if loss == "exo_pair" else {}
    made = planned(given, tmp_path, loss_type=loss, **smooth)
    assert FinetuneSettings.model_validate(wire.load(made.training)).preferred.losses == [loss]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "dop"}, "PARAM-E0102 method: .*did you mean dpo"),
        ({"loss_type": "sigmod"}, "PARAM-E0251 loss_type: .*did you mean sigmoid"),
        ({"loss_type": "kto_pair"}, "PARAM-E0251 loss_type: found kto_pair with method=dpo.*set method=kto"),
        ({"loss_type": "simpo"}, "PARAM-E0251 loss_type: .*set method=simpo"),
        ({"method": "ipo", "loss_type": "hinge"}, "PARAM-E0251 loss_type: found hinge with method=ipo"),
        ({"method": "orpo", "loss_type": "sigmoid"}, "PARAM-E0251 loss_type: found sigmoid with method=orpo"),
        ({"method": "cpo", "loss_type": "sigmoid,hinge"}, "PARAM-E0252 loss_type: found 2 losses"),
        ({"loss_type": "ipo,ipo"}, "PARAM-E0252 loss_type: .*each loss once"),
        ({"loss_type": "sigmoid,sft", "loss_weights": "1"}, "PARAM-E0253 loss_weights: .*2 positive numbers"),
        ({"loss_type": "sigmoid,sft", "loss_weights": "1,much"}, "PARAM-E0253 loss_weights"),
        ({"loss_weights": "-1"}, "PARAM-E0253 loss_weights: .*1 positive number,"),
        ({"loss_type": "sigmoid,sft", "loss_weights": "1,0"}, "PARAM-E0253 loss_weights: .*2 positive numbers"),
        ({"label_smoothing": 0.1}, "PARAM-E0254 label_smoothing: .*set loss_type=robust"),
        ({"loss_type": "exo_pair"}, "PARAM-E0254 label_smoothing: found 0.0 with exo_pair"),
        ({"method": "orpo", "label_smoothing": 0.1}, "PARAM-E0254 label_smoothing: .*orpo smooths no loss"),
        ({"loss_type": "robust", "label_smoothing": 0.5}, "PARAM-E0103 label_smoothing: .*below 0.5"),
        ({"method": "simpo", "precompute_ref_log_probs": True}, "PARAM-E0255 precompute_ref_log_probs"),
        ({"method": "orpo", "pad_to_max_length": True}, "PARAM-E0255 pad_to_max_length"),
        ({"desirable_weight": 2.0}, "PARAM-E0255 desirable_weight: .*method=kto"),
        ({"kto_rows": "pairs"}, "PARAM-E0255 kto_rows"),
        ({"method": "cpo", "simpo_gamma": 1.0}, "PARAM-E0255 simpo_gamma: .*method=simpo, or method=cpo with"),
        ({"method": "simpo", "cpo_alpha": 0.5}, "PARAM-E0255 cpo_alpha"),
        ({"method": "kto", "per_device_train_batch_size": 1}, "PARAM-E0256 per_device_train_batch_size"),
        ({"loss_type": "aot", "per_device_train_batch_size": 1}, "PARAM-E0256 per_device_train_batch_size"),
        ({"method": "kto", "metric_for_best_model": "rewards/margins"}, "PARAM-E0257 metric_for_best_model"),
        ({"method": "kto", "gate_metric": "preference_accuracy"}, "PARAM-E0257 gate_metric: .*rated answers"),
        ({"gate_metric": "reward_auc"}, "PARAM-E0257 gate_metric: .*for pairs"),
        ({"gate_metric": "reward_accuracy", "gate_max_value": 0.5}, "PARAM-E0205 gate_max_value"),
        ({"completion_key": "answer"}, "PARAM-E0258 completion_key: .*set method=kto"),
        ({"method": "kto", "chosen_key": "answer"}, "PARAM-E0258 chosen_key: .*set kto_rows=pairs"),
        (
            {"max_prompt_length": 64, "max_seq_length": 64},
            "PLAN-E0321 max_prompt_length: found 64; expected less than 64",
        ),
        ({"packing": True}, "PLAN-E0102 packing"),
        ({"train_on_completions_only": True}, "PLAN-E0102 train_on_completions_only"),
        ({"lora_dropout": 0.1, "apply_lora": True}, "PLAN-E0102 lora_dropout: .*dropout is disabled"),
        ({"gate_metric": "bleu"}, "PARAM-E0102 gate_metric"),
    ],
)
def test_what_a_method_cannot_have_is_refused(given, tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        planned(given, tmp_path, **changes)
    assert re.search(words, str(caught.value))
    assert len(caught.value.problems) == 1


def test_trl_knows_every_loss_and_no_other():
    from inspect import getsource

    from trl import DPOTrainer

    source = getsource(DPOTrainer._compute_loss)
    assert set(re.findall(r'loss_type == "(\w+)"', source)) == set(METHODS["dpo"].losses)


def test_a_model_that_reads_a_whole_text_is_refused(given, tmp_path):
    from classifiers import build_bert

    build_bert(tmp_path / "bert")
    with pytest.raises(UserError, match=r"PLAN-E0308 pytorch_model_path.*for preference"):
        planned(given, tmp_path, pytorch_model_path=str(tmp_path / "bert"))


def test_rated_rows_are_refused_where_all_are_good(given, tmp_path):
    from steps.params.data import DataSource
    from steps.prepare_data.check.checking import check_data

    rows = [row for row in rated_rows(90) if row["label"]]
    with pytest.raises(UserError, match="DATA-E1512"):
        check_data("kto", DataSource(train_file_path=str(write_jsonl(tmp_path / "good.jsonl", rows))))
