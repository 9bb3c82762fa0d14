"""A classifier's metrics equal scikit-learn's on transformers' outputs; a base without a head is a baseline."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from classifiers import BUILDERS, data_settings, label_rows
from training_inputs import as_imported

from steps.errors import UserError
from steps.evaluate.step import evaluate
from steps.params.evaluation import EvaluationParams
from steps.params.settings import EvaluationSettings
from steps.prepare_data.step import prepare_data
from steps.scoring.scored import Scored
from steps.tasks import load_task


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Bases with data for them, and a classifier of random weights, each made once."""
    made = {}

    def world(kind: str, several: bool = False) -> dict[str, Path]:
        if (kind, several) not in made:
            made[kind, several] = make_world(tmp_path_factory.mktemp("world"), kind, several)
        return made[kind, several]

    return world


def make_world(folder: Path, kind: str, several: bool) -> dict[str, Path]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    BUILDERS[kind](folder / "source")
    base = as_imported(folder / "source", folder / "base")
    rows = label_rows(84, several=several)
    for row in rows[60::5]:  # test rows of very different lengths
        row["text"] += " and the apple" * 6
    settings = data_settings(folder, rows, columns={"multilabel": several})
    names = prepare_data(settings, base, folder / "data", folder / "data.html").facts["class_names"]
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(
        base, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        problem_type="multi_label_classification" if several else "single_label_classification",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(base)
    model.config.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token else tokenizer.eos_token_id
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder / "plain")
    return {"base": base, "tuned": as_imported(folder / "plain", folder / "tuned"), "data": folder / "data"}


def run(world: dict[str, Path], folder: Path, batch_size: int = 4, **gate) -> tuple[bool, dict, list[dict]]:
    settings = EvaluationSettings(
        task="text_classification",
        kind="sequence_classification",
        batch_size=batch_size,
        evaluation=EvaluationParams(**gate),
    )
    passed = evaluate(
        settings, world["base"], world["tuned"], world["tuned"], world["data"], folder / "e", folder / "r.html"
    )
    metrics = json.loads((folder / "e" / "metrics.json").read_text())
    return passed, metrics, pq.read_table(folder / "e" / "predictions.parquet").to_pylist()


def said_one_at_a_time(world: dict[str, Path]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Logits by plain transformers, a row at a time without padding; the right labels; the class names."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(world["tuned"]).eval()
    rows = pq.read_table(world["data"] / "tokens/test.parquet").to_pylist()
    with torch.no_grad():
        logits = [
            model(**{n: torch.tensor([v]) for n, v in row.items() if n != "labels"}).logits[0].double() for row in rows
        ]
    names = [model.config.id2label[number] for number in range(model.config.num_labels)]
    return torch.stack(logits).numpy(), np.array([row["labels"] for row in rows]), names


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUILDERS)
def test_metrics_are_scikit_learns_on_rows_computed_alone(worlds, tmp_path, kind):
    from scipy.special import softmax
    from sklearn import metrics

    world = worlds(kind)
    _, told, rows = run(world, tmp_path, gate_must_beat_base=False)
    logits, truth, names = said_one_at_a_time(world)
    likely = softmax(logits, axis=1)
    said = likely.argmax(axis=1)
    tuned = told["tuned"]
    assert tuned["accuracy"] == metrics.accuracy_score(truth, said)
    assert tuned["loss"] == pytest.approx(metrics.log_loss(truth, likely, labels=range(3)), abs=1e-5)
    assert tuned["loss"] == pytest.approx(tuned["log_loss"], abs=1e-9)
    assert tuned["f1_macro"] == pytest.approx(metrics.f1_score(truth, said, average="macro"))
    assert tuned["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, said))
    assert tuned["AUC_macro"] == pytest.approx(metrics.roc_auc_score(truth, likely, multi_class="ovr"), abs=1e-6)
    assert told["labels"]["confusion"]["counts"] == metrics.confusion_matrix(truth, said).tolist()
    assert [row["predicted"] for row in rows] == [names[place] for place in said]
    assert [row["probability"] for row in rows] == pytest.approx(likely.max(axis=1).tolist(), abs=1e-5)
    assert [row["right"] for row in rows] == (said == truth).tolist()


@pytest.mark.slow
def test_the_base_is_the_most_frequent_class_with_the_shares_of_the_training_rows(worlds, tmp_path):
    from sklearn import metrics
    from sklearn.dummy import DummyClassifier

    world = worlds("bert")
    _, told, rows = run(world, tmp_path, gate_must_beat_base=False)
    train, test = (pq.read_table(world["data"] / f"tokens/{split}.parquet")["labels"].to_numpy()
                   for split in ("train", "test"))  # fmt: skip
    dummy = DummyClassifier(strategy="prior").fit(np.zeros((len(train), 1)), train)
    likely = dummy.predict_proba(np.zeros((len(test), 1)))
    said = dummy.predict(np.zeros((len(test), 1)))
    assert told["base"]["accuracy"] == metrics.accuracy_score(test, said)
    assert told["base"]["loss"] == pytest.approx(metrics.log_loss(test, likely))
    assert len({row["base"] for row in rows}) == 1
    assert "most frequent class" in told["labels"]["base"]
    assert "most frequent class" in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_a_base_that_is_a_classifier_of_these_classes_is_evaluated_itself(worlds, tmp_path):
    world = worlds("bert")
    passed, told, rows = run({**world, "base": world["tuned"]}, tmp_path)
    assert told["base"] == told["tuned"]
    assert not passed
    assert [row["base"] for row in rows] == [row["predicted"] for row in rows]


@pytest.mark.slow
def test_several_labels_are_measured_as_sets(worlds, tmp_path):
    from scipy.special import expit
    from sklearn import metrics

    world = worlds("bert", several=True)
    _, told, rows = run(world, tmp_path, gate_metric="hamming_loss", gate_must_beat_base=False)
    logits, truth, names = said_one_at_a_time(world)
    said = logits > 0
    assert told["tuned"]["subset_accuracy"] == metrics.accuracy_score(truth, said)
    assert told["tuned"]["hamming_loss"] == pytest.approx(metrics.hamming_loss(truth, said))
    expected = metrics.log_loss(truth.ravel(), np.stack([1 - expit(logits).ravel(), expit(logits).ravel()], axis=1))
    assert told["tuned"]["loss"] == pytest.approx(expected, abs=1e-5)
    assert [row["predicted"] for row in rows] == [[n for n, s in zip(names, line, strict=True) if s] for line in said]


def measured_of_the_task(rows, probabilities, names):
    """What a task's SCORES names: here the mean probability of the first class, and what it was told."""
    return Scored(
        {"of_the_task": float(probabilities[:, 0].mean())},
        {"missing": "no row has it"},
        remarks=(f"{len(rows)} rows from {rows['sentence1'][0].as_py()} on, {len(names)} classes",),
    )


@pytest.mark.slow
def test_metrics_that_a_task_names_are_measured_for_both_models(worlds, tmp_path, monkeypatch):
    name = f"{__name__}:{measured_of_the_task.__name__}"
    monkeypatch.setattr(load_task("text_classification"), "SCORES", name, raising=False)
    _, told, rows = run(worlds("bert"), tmp_path, gate_must_beat_base=False)
    assert told["tuned"]["of_the_task"] == pytest.approx(np.mean([row["probabilities"][0] for row in rows]))
    assert told["base"]["of_the_task"] == pytest.approx(1 / 3, abs=0.05)
    assert told["labels"]["undefined"]["tuned"]["missing"] == "no row has it"
    assert told["labels"]["remarks"][-1] == f"12 rows from {rows[0]['sentence1']} on, 3 classes"
    assert told["labels"]["remarks"][-1].split(",")[0] in (tmp_path / "r.html").read_text()


@pytest.mark.slow
def test_how_rows_are_batched_changes_nothing(worlds, tmp_path):
    _, one, _ = run(worlds("llama"), tmp_path / "one", batch_size=1, gate_must_beat_base=False)
    _, many, _ = run(worlds("llama"), tmp_path / "many", batch_size=64, gate_must_beat_base=False)
    assert one["tuned"] == pytest.approx(many["tuned"], abs=1e-5)


@pytest.mark.slow
def test_a_gate_on_a_number_that_does_not_exist_says_so(worlds, tmp_path):
    with pytest.raises(UserError, match=r"EVAL-E0206 gate_metric: found f1_binary.*two classes only"):
        run(worlds("bert"), tmp_path, gate_metric="f1_binary")
    assert not (tmp_path / "e").exists()


@pytest.mark.slow
def test_the_report_escapes_labels_and_rows(worlds, tmp_path):
    world = worlds("bert")
    run(world, tmp_path, gate_must_beat_base=False)
    page = (tmp_path / "r.html").read_text()
    for word in ("Confusion matrix", ">Labels<", "ROC", "Sample rows", "colour"):
        assert word in page
    assert page.count("<svg") == 2
    evaluation = json.loads((tmp_path / "e/metrics.json").read_text())
    evil = "<script>alert(1)</script>"
    evaluation["labels"]["names"][0] = evaluation["labels"]["confusion"]["names"][0] = evil
    (tmp_path / "e/manifest.json").unlink()
    (tmp_path / "e/metrics.json").write_text(json.dumps(evaluation))
    from steps.reports import write_evaluation_report

    write_evaluation_report(tmp_path / "e", tmp_path / "evil.html")
    text = (tmp_path / "evil.html").read_text()
    assert evil not in text
    assert "&lt;script&gt;" in text
