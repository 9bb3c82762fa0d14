"""The plan determines the objective of pretraining and its starting weights."""

import json
import re
import shutil
from pathlib import Path

import pytest
from classifiers import build_bert
from conftest import write_jsonl

from steps import wire
from steps.errors import UserError
from steps.import_model.step import import_model
from steps.params.settings import DataSettings, FinetuneSettings, ImportSettings
from steps.plan.step import plan


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    build_bert(folder)
    return folder


@pytest.fixture
def planned(tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    file = write_jsonl(tmp_path / "train.jsonl", [{"text": f"the apple {number}"} for number in range(60)])

    def run(model: Path, **changes):
        given = {"pytorch_model_path": str(model), "train_file_path": str(file), "number_of_gpu_to_use_finetuning": 0}
        return plan("pretraining", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")

    return run


def test_the_model_decides_the_objective_unless_it_is_named(planned, bert, tiny_model):
    for model, head in ((bert, "masked_lm"), (tiny_model, "causal_lm")):
        made = planned(model)
        assert DataSettings.model_validate(wire.load(made.data)).kind == head
        assert FinetuneSettings.model_validate(wire.load(made.training)).kind == head


@pytest.mark.parametrize(
    ("which", "changes", "words"),
    [
        ("bert", {"pretraining_objective": "causal"}, "PLAN-E0308 pytorch_model_path: found a model of type bert"),
        ("llama", {"pretraining_objective": "masked"}, "PLAN-E0309 pretraining_objective: found masked with .* llama"),
        ("llama", {"mlm_probability": 0.3}, "PLAN-E0310 mlm_probability: .*nothing is hidden"),
        ("llama", {"gate_metric": "masked_accuracy"}, "PLAN-E0310 gate_metric: .*nothing is hidden"),
        ("bert", {"mlm_probability": 1.0}, "PARAM-E0103 mlm_probability"),
        ("bert", {"new_weights": True, "apply_lora": True}, "PARAM-E0211 apply_lora"),
    ],
)
def test_what_does_not_go_together_is_refused(planned, bert, tiny_model, which, changes, words):
    with pytest.raises(UserError) as caught:
        planned({"bert": bert, "llama": tiny_model}[which], **changes)
    assert re.search(words, str(caught.value))
    assert len(caught.value.problems) == 1


def test_a_folder_without_weights_is_enough_for_new_ones(planned, bert, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(bert, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match="MODEL-E0108"):
        planned(bare)
    made = planned(bare, new_weights=True)
    settings = ImportSettings.model_validate(wire.load(made.model))
    manifest = import_model(settings, tmp_path / "model", tmp_path / "tokenizer")
    assert manifest.facts["weights"] == "new"
    assert json.loads((tmp_path / "plan/plan.json").read_text())["memory"]["parts"]["weights"] > 0
    assert FinetuneSettings.model_validate(wire.load(made.training)).new_weights


def test_weights_that_are_there_are_left_out_for_new_ones(planned, bert, tmp_path):
    settings = ImportSettings.model_validate(wire.load(planned(bert, new_weights=True).model))
    manifest = import_model(settings, tmp_path / "model", tmp_path / "tokenizer")
    assert not any(name.endswith(".safetensors") for name in manifest.files)


def test_the_positions_of_a_roberta_are_counted_after_its_padding():
    from steps.models.layout import ModelLayout

    config = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    assert ModelLayout({}, {}, {}, config, {}, ()).max_positions == 512
