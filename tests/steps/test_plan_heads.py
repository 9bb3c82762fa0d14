"""The model kind determines the trainer, and which parameters have an effect."""

import json
import re
from pathlib import Path

import pytest
from classifiers import label_rows
from conftest import write_jsonl

from pipelines.catalog import PIPELINES
from steps import wire
from steps.errors import UserError
from steps.kinds.models import MODEL_KINDS
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.reading import read_parameters
from steps.params.settings import FinetuneSettings, RegistrationSettings
from steps.plan.step import plan
from steps.tasks import TASKS, load_task


@pytest.fixture
def given(tiny_model, tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    file = write_jsonl(tmp_path / "train.jsonl", label_rows(90))
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(file), "sentence1_key": "text",
            "label_key": "kind", "number_of_gpu_to_use_finetuning": 0}  # fmt: skip


def planned(given: dict, tmp_path: Path, **changes):
    return plan("text_classification", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")


@pytest.mark.parametrize("task", TASKS)
def test_every_task_says_what_its_model_puts_out(task):
    assert load_task(task).KINDS
    assert set(load_task(task).KINDS) <= set(MODEL_KINDS)


@pytest.mark.parametrize("pipeline", [name for name, one in PIPELINES.items() if one.trains])
def test_what_is_refused_for_a_kind_is_a_parameter_of_every_pipeline_that_trains_it(pipeline):
    parameters = PARAMETER_MODELS[pipeline]
    usual, *others = load_task(parameters.task).KINDS
    for name in load_task(parameters.task).UNFIT:
        assert name in parameters.model_fields
    for kind in (usual, *others):
        only_some = {"max_target_length", "num_beams"}  # of pipelines that take models with an encoder too
        assert MODEL_KINDS[kind].unfit.keys() - only_some <= parameters.model_fields.keys()


def test_the_plan_chooses_the_trainer_and_says_so(given, tmp_path):
    made = planned(given, tmp_path, metric_for_best_model="f1_macro", gate_metric="mcc", sentence2_key="more")
    training = FinetuneSettings.model_validate(wire.load(made.training))
    assert (training.kind, training.training.metric_for_best_model) == ("sequence_classification", "f1_macro")
    registration = RegistrationSettings.model_validate(wire.load(made.registration))
    assert (registration.pairs, registration.max_length) == (True, 256)
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    assert any("classification, all weights" in task["what"] for task in told["tasks"])
    assert "logits" not in told["memory"]["parts"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"packing": True}, "PLAN-E0102 packing: .*each row is classified separately"),
        ({"chat_template": "chat-ml"}, "PLAN-E0102 chat_template: .*because the rows are not conversations"),
        ({"train_on_completions_only": True}, "PLAN-E0102 train_on_completions_only: .*the model predicts a label"),
        ({"response_template": "A:"}, "PLAN-E0102 response_template"),
        ({"evaluation_max_new_tokens": 5}, "PLAN-E0102 evaluation_max_new_tokens: .*nothing is generated"),
        ({"gate_metric": "bleu"}, "PARAM-E0102 gate_metric"),
        ({"metric_for_best_model": "rouge1"}, "PARAM-E0102 metric_for_best_model"),
        ({"gate_metric": "hamming_loss"}, "PARAM-E0210 gate_metric: found hamming_loss with multilabel=false"),
        ({"gate_metric": "accuracy", "multilabel": True}, "PARAM-E0210 gate_metric"),
        (
            {"metric_for_best_model": "mcc", "multilabel": True},
            "metric_for_best_model: .*set metric_for_best_model to f1_macro",
        ),
        ({"gate_metric": "accuracy", "gate_max_value": 0.5}, "PARAM-E0205 gate_max_value"),
        ({"gate_metric": "log_loss", "gate_min_value": 0.5}, "PARAM-E0205 gate_min_value"),
    ],
)
def test_what_a_classifier_cannot_have_is_refused(given, tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        planned(given, tmp_path, **changes)
    assert re.search(words, str(caught.value))
    assert len(caught.value.problems) == 1


def test_a_language_model_is_not_steered_by_the_metrics_of_labels():
    with pytest.raises(UserError, match="PARAM-E0102 gate_metric"):
        read_parameters("chat_completion", {"pytorch_model_path": "m", "train_file_path": "t", "gate_metric": "mcc"})
