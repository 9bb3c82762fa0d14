"""What a registered classifier makes of a table, beside a label: columns and a score that its task names."""

import ast
from pathlib import Path

import pandas as pd
import pytest
from classifiers import build_bert

from steps.params.settings import RegistrationSettings
from steps.register_model.packaging import _of_task
from steps.register_model.served_answers import read_questions
from steps.register_model.served_labels import Model, read_texts
from steps.register_model.signatures import of_labels
from steps.tasks import load_task

ROWS = pd.DataFrame({"passage": ["a red", "the iron ."], "number": [1, 2], "query": ["apple", "the pear and the plum"]})


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    import torch
    from transformers import AutoModelForSequenceClassification

    folder = tmp_path_factory.mktemp("classifier")
    build_bert(folder)
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(folder, id2label={0: "no", 1: "yes"})
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


def probabilities(folder: Path) -> list[list[float]]:
    """Of each class, by plain transformers, a row at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    told = []
    for _, row in ROWS.iterrows():
        with torch.no_grad():
            logits = model(**tokenizer(row["query"], row["passage"], return_tensors="pt")).logits[0]
        told.append(logits.double().softmax(0).tolist())
    return told


def test_a_score_is_the_probability_of_its_class_whichever_label_is_given(classifier):
    reference = {"max_length": 32, "texts": ["query", "passage"], "scored": "no"}
    told = Model(classifier, reference).predict(ROWS)
    expected = probabilities(classifier)
    assert list(told.columns) == ["label", "probability", "score"]
    assert told["score"].tolist() == pytest.approx([no for no, _ in expected], abs=1e-6)
    assert told["label"].tolist() == ["no" if no > yes else "yes" for no, yes in expected]
    assert told["probability"].tolist() == pytest.approx([max(row) for row in expected], abs=1e-6)


def test_without_names_of_the_task_it_is_as_before(classifier):
    told = Model(classifier, {"max_length": 32}).predict(
        ROWS.rename(columns={"query": "sentence1", "passage": "sentence2"})
    )
    assert list(told.columns) == ["label", "probability"]
    assert told["probability"].tolist() == pytest.approx([max(row) for row in probabilities(classifier)], abs=1e-6)
    with pytest.raises(ValueError, match="pass a list of texts, or the columns query and passage"):
        Model(classifier, {"max_length": 32, "texts": ["query", "passage"]}).predict(ROWS[["passage"]])


def test_columns_and_score_of_a_task_are_in_the_signature_and_in_what_is_stored(classifier, monkeypatch):
    settings = RegistrationSettings(
        pipeline="text_classification", task="text_classification", kind="sequence_classification", pairs=True
    )
    assert of_labels(settings, classifier, False).inputs.input_names() == ["sentence1", "sentence2"]
    assert _of_task("text_classification") == {}
    monkeypatch.setattr(load_task("text_classification"), "TEXTS", ("query", "passage"), raising=False)
    monkeypatch.setattr(load_task("text_classification"), "SCORED", "yes", raising=False)
    signature = of_labels(settings, classifier, False)
    assert signature.inputs.input_names() == ["query", "passage"]
    assert signature.outputs.input_names() == ["label", "probability", "score"]
    assert _of_task("text_classification") == {"texts": ("query", "passage"), "scored": "yes"}


@pytest.mark.parametrize(
    ("task", "names", "expected"),
    [
        ("text_classification", ("sentence1", "sentence2"), ("It rains.", "It is wet.")),
        ("reranking", ("query", "passage"), ("Who wrote it?", "Ada wrote it.")),
        ("question_answering", ("question", "context"), ("Who wrote it?", "Ada wrote it.")),
    ],
)
def test_the_model_cards_example_is_read_as_mlflow_passes_it(task, names, expected):
    from mlflow.models.utils import _enforce_schema
    from mlflow.types import ColSpec, Schema

    module = load_task(task)
    example = ast.literal_eval(getattr(module, "EXAMPLE_OF_PAIRS", module.EXAMPLE))
    given = _enforce_schema(example, Schema([ColSpec("string", name) for name in names]))
    read = read_questions(given) if task == "question_answering" else read_texts(given, names)
    assert read == [expected]
