"""evaluation_config: metrics and text comparison are checked by the plan and applied by the evaluation."""

import json
import re

import pytest
from classifiers import label_rows
from conftest import chat_rows, write_jsonl

from steps import wire
from steps.errors import UserError
from steps.params.evaluation_config import EvaluationOptions
from steps.params.settings import EvaluationSettings
from steps.plan.step import plan
from steps.scoring.text_metrics import exact, score_texts


@pytest.fixture
def planned(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    files = {
        "chat_completion": write_jsonl(tmp_path / "chat.jsonl", chat_rows(60)),
        "text_classification": write_jsonl(tmp_path / "labels.jsonl", label_rows(60)),
    }
    columns = {"chat_completion": {}, "text_classification": {"sentence1_key": "text", "label_key": "kind"}}

    def run(pipeline: str, **changes) -> EvaluationOptions:
        given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(files[pipeline]),
                 "number_of_gpu_to_use_finetuning": 0, **columns[pipeline]}  # fmt: skip
        made = plan(pipeline, {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
        return EvaluationSettings.model_validate(wire.load(made.evaluation)).options

    return run


def test_a_file_and_its_text_mean_the_same(planned, tmp_path):
    config = {"metrics": ["rougeL", "word_f1"], "ignore_case": True, "regexes_to_ignore": ["[.]$"]}
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(config))
    expected = EvaluationOptions(**config)
    assert planned("chat_completion", evaluation_config=str(file)) == expected
    assert planned("chat_completion", evaluation_config_params=json.dumps(config)) == expected
    assert planned("chat_completion") == EvaluationOptions()


@pytest.mark.parametrize(
    ("pipeline", "config", "words"),
    [
        ("chat_completion", "{", "PLAN-E0318 evaluation_config_params: .*a JSON object"),
        ("chat_completion", "[]", "PLAN-E0318 evaluation_config_params: .*a JSON object"),
        ("chat_completion", '{"metric": []}', "PLAN-E0318 evaluation_config_params: metric: .*did you mean metrics?"),
        ("chat_completion", '{"metrics": "bleu"}', "PLAN-E0318 evaluation_config_params: metrics"),
        ("chat_completion", '{"metrics": ["rogueL"]}', "PLAN-E0319 .*found 'rogueL'.*did you mean rougeL"),
        ("chat_completion", '{"metrics": ["mcc"]}', "PLAN-E0319"),
        ("chat_completion", '{"regexes_to_ignore": ["("]}', "PLAN-E0318 .*regexes_to_ignore"),
        ("text_classification", '{"ignore_case": true}', "PLAN-E0314 evaluation_config_params: ignore_case"),
        ("text_classification", '{"metrics": ["bleu"]}', "PLAN-E0319"),
    ],
)
def test_what_is_wrong_is_told_by_the_plan(planned, pipeline, config, words):
    with pytest.raises(UserError) as caught:
        planned(pipeline, evaluation_config_params=config)
    assert re.search(words, str(caught.value))
    assert len(caught.value.problems) == 1


def test_both_at_once_are_refused(planned):
    with pytest.raises(UserError, match="PARAM-E0214 evaluation_config_params"):
        planned("chat_completion", evaluation_config="file.json", evaluation_config_params="{}")


def test_names_of_other_systems_are_known(planned):
    config = json.dumps({"metrics": ["matthews_correlation", "f1_score_macro"]})
    assert planned("text_classification", evaluation_config_params=config).metrics[0] == "matthews_correlation"


@pytest.mark.parametrize(
    ("options", "answer", "reference"),
    [
        ({"ignore_case": True}, "Yes", "yes"),
        ({"ignore_punctuation": True}, "Yes, sir!", "Yes sir"),
        ({"ignore_numbers": True}, "room 12", "room 7"),
        ({"regexes_to_ignore": ["^Answer: "]}, "Answer: four", "four"),
    ],
)
def test_texts_are_compared_without_what_is_to_be_ignored(options, answer, reference):
    assert not exact(answer, reference)
    assert exact(answer, reference, EvaluationOptions(**options))
    assert score_texts([answer], [reference], EvaluationOptions(**options))["exact_match"] == 1.0


def test_stemming_and_smoothing_are_those_of_the_libraries():
    from rouge_score import rouge_scorer
    from sacrebleu import BLEU

    answers, references = ["the cats were running"], ["a cat runs fast"]
    bare = score_texts(answers, references, EvaluationOptions(use_stemmer=False))
    plain = rouge_scorer.RougeScorer(["rouge1"], use_stemmer=False).score(references[0], answers[0])["rouge1"]
    assert bare["rouge1"] == pytest.approx(100 * plain.fmeasure)
    assert score_texts(answers, references)["rouge1"] > bare["rouge1"]
    some, right = ["the cat sat on a mat"], ["the cat sat there"]
    smooth = score_texts(some, right, EvaluationOptions(smoothing=True))
    assert score_texts(some, right)["bleu_4"] == 0
    assert smooth["bleu_4"] == pytest.approx(
        BLEU(smooth_method="exp", max_ngram_order=4).corpus_score(some, [right]).score
    )


def test_only_what_was_asked_for_is_reported_beside_loss_and_gate():
    import pyarrow as pa

    from steps.evaluate.comparison import Comparison

    settings = EvaluationSettings(
        task="text_classification",
        options={"metrics": ["matthews_correlation"]},
        evaluation={"gate_metric": "accuracy"},
    )
    scores = {which: {"loss": 1.0, "accuracy": 0.5, "mcc": 0.1, "f1_macro": 0.2} for which in ("base", "tuned")}
    chosen = Comparison(scores, pa.table({})).chosen(settings)
    assert chosen["tuned"] == {"loss": 1.0, "accuracy": 0.5, "mcc": 0.1}
    assert list(chosen["base"]) == ["loss", "accuracy", "mcc"]


def test_charts_become_files_that_stand_for_themselves(tmp_path):
    from xml.etree import ElementTree

    from steps.reports.plots import write_plots

    labels = {"confusion": {"names": ["a", "b"], "counts": [[3, 1], [0, 4]]}}
    write_plots(tmp_path / "plots", {"labels": labels})
    write_plots(tmp_path / "none", {"tags": {}})
    assert [file.name for file in (tmp_path / "plots").iterdir()] == ["confusion_matrix.svg"]
    text = (tmp_path / "plots/confusion_matrix.svg").read_text()
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in text
    assert not (tmp_path / "none").exists()
