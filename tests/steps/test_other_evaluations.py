"""Files of evaluation_config that were written for azureml-metrics: every key and metric is read, or named."""

import json
import logging
import re

import pytest
from classifiers import label_rows
from conftest import chat_rows, write_jsonl
from preferences import pair_rows

from steps.errors import UserError
from steps.params.evaluation_config import EvaluationOptions
from steps.params.metrics import KNOWN
from steps.params.other_evaluations import IDLE_KEYS, NOT_REPORTED, OTHER_NAMES, our_name
from steps.params.reading import read_parameters
from steps.plan.deciding import decide
from steps.scoring.scored import choose_metrics

LABELS = {"sentence1_key": "text", "label_key": "kind"}
AVERAGES = ("macro", "micro", "weighted")
MEASURES = ("f1_score", "precision_score", "recall_score", "average_precision_score", "AUC")
EVERY = [f"{measure}_{average}" for measure in MEASURES for average in (*AVERAGES, "binary")] + [
    "accuracy", "accuracy_table", "balanced_accuracy", "confusion_matrix", "log_loss", "matthews_correlation",
    "norm_macro_recall", "weighted_accuracy",
]  # fmt: skip
SHOWN = "the report shows it in any case"


@pytest.fixture
def planned(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    answers = [{"text": [f"{n}"], "answer_start": [6]} for n in range(60)]
    questions = [{"question": f"What is {n}?", "context": f"It is {n}.", "answers": answers[n]} for n in range(60)]
    rows = {
        "chat_completion": (chat_rows(60), {}),
        "text_generation": ([{"text": f"one {n}", "answer": f" two {n}"} for n in range(60)], {}),
        "text_classification": (label_rows(60), LABELS),
        "token_classification": ([{"tokens": ["a", f"b{n}"], "tags": ["O", "B-X"]} for n in range(60)], {}),
        "question_answering": (questions, {}),
        "summarization": ([{"document": f"Text {n}", "summary": f"{n}"} for n in range(60)], {}),
        "translation": ([{"en": f"one {n}", "de": f"eins {n}"} for n in range(60)], {}),
        "pretraining": ([{"text": f"one {n}"} for n in range(60)], {}),
        "preference": (pair_rows(60), {}),
    }

    def run(pipeline: str, config: dict | str, **changes) -> tuple[EvaluationOptions, list[str]]:
        data, columns = rows[pipeline]
        given = {
            "pytorch_model_path": str(tiny_model),
            "train_file_path": str(write_jsonl(tmp_path / "rows.jsonl", data)),
            "number_of_gpu_to_use_finetuning": 0,
            "evaluation_config_params": config if isinstance(config, str) else json.dumps(config),
            **columns,
        }
        decisions = decide(pipeline, {**given, **changes})
        start = "evaluation_config_params: "
        told = [text.removeprefix(start) for text in decisions.warnings if text.startswith(start)]
        return decisions.options, told

    return run


# (pipeline, further parameters, file, metrics that are reported, options that differ from their default, what is told).
FILES = {
    "labels": (
        "text_classification",
        {},
        {"metrics": ["accuracy", "f1_score_micro", "average_precision_score_macro"], "multilabel": False,
         "enable_metric_confidence": True, "confidence_metrics": ["accuracy", "f1_score_micro"], "use_binary": False},
        ["accuracy", "f1_score_micro", "average_precision_score_macro"],
        {},
        [
            "enable_metric_confidence is ignored: no confidence intervals are computed",
            "confidence_metrics is ignored: no confidence intervals are computed",
        ],
    ),
    "every metric of labels": (
        "text_classification",
        {},
        {"metrics": EVERY, "class_labels": ["a", "b"], "train_labels": ["a", "b"], "multilabel": False},
        [name for name in EVERY if name not in ("accuracy_table", "confusion_matrix")],
        {},
        [
            "class_labels is ignored: the labels are those of the training rows",
            "train_labels is ignored: the labels are those of the training rows",
            f"the metric accuracy_table is ignored: {SHOWN}",
            f"the metric confusion_matrix is ignored: {SHOWN}",
        ],
    ),
    "several labels": (
        "text_classification",
        {"multilabel": True},
        {"metrics": ["accuracy", "f1_score_macro", "log_loss", "AUC_macro", "iou_macro"], "multilabel": True},
        ["accuracy", "f1_score_macro", "AUC_macro", "iou_macro"],
        {},
        ["the metric log_loss is ignored: it has no value for rows with any number of labels"],
    ),
    "the parameter differs": (
        "text_classification",
        {},
        {"metrics": ["iou"], "multilabel": True},
        [],
        {},
        [
            "multilabel=true is ignored: the parameter multilabel counts",
            "the metric iou is ignored: it has no value for rows with one label",
        ],
    ),
    "tags": (
        "token_classification",
        {},
        {"metrics": ["accuracy", *(f"{name}_score_{average}" for name in ("precision", "recall", "f1")
                                   for average in AVERAGES)], "train_label_list": ["O", "B-X"]},
        ["accuracy", *(f"{name}_score_{average}" for name in ("precision", "recall", "f1") for average in AVERAGES)],
        {},
        ["train_label_list is ignored: the labels are those of the training rows"],
    ),
    "answers": (
        "question_answering",
        {},
        {"metrics": ["exact_match", "f1_score"], "regexes_to_ignore": ["$[A-Z]+"], "ignore_case": False,
         "ignore_numbers": False, "ignore_punctuations": True},
        ["exact_match", "f1_score"],
        {"regexes_to_ignore": ["$[A-Z]+"], "ignore_punctuation": True},
        [],
    ),
    "answers that are judged": (
        "question_answering",
        {},
        {"metrics": ["macro_averaged_f1", "bertscore", "gpt_fluency", "llm_relevance"], "openai_params": {"type": "x"}},
        ["macro_averaged_f1"],
        {},
        [
            "openai_params is ignored: no other model judges the answers",
            *(f"the metric {name} is ignored: no other model judges the answers"
              for name in ("bertscore", "gpt_fluency", "llm_relevance")),
        ],
    ),
    "summaries": (
        "summarization",
        {},
        {"metrics": ["rouge1", "rouge2", "rougeL", "rougeLsum"], "aggregator": True, "stemmer": False,
         "tokenizer_config": {"truncation": True}},
        ["rouge1", "rouge2", "rougeL", "rougeLsum"],
        {"use_stemmer": False},
        ["tokenizer_config is ignored: evaluation_max_new_tokens, num_beams and max_seq_length say how answers are "
         "generated"],
    ),
    "translations": (
        "translation",
        {},
        {"metrics": ["bleu_1", "bleu_2", "bleu_3", "bleu_4"], "smoothing": True},
        ["bleu_1", "bleu_2", "bleu_3", "bleu_4"],
        {"smoothing": True},
        [],
    ),
    "texts": (
        "text_generation",
        {"ground_truth_key": "answer"},
        {"metrics": ["exact_match", "f1_score", "bleu_1", "rouge1", "perplexity"], "smoothing": False, "stemmer": True,
         "aggregator": False, "model_id": "gpt2", "batch_size": 16, "add_start_token": True},
        ["exact_match", "f1_score", "bleu_1", "rouge1", "perplexity"],
        {},
        [
            "aggregator is ignored: scores are means over all rows; predictions.parquet has each answer",
            *(f"{key} is ignored: perplexity is computed with the model itself, on all tokens of the answers"
              for key in ("model_id", "batch_size", "add_start_token")),
        ],
    ),
    "texts without answers": (
        "text_generation",
        {},
        {"metrics": ["rouge1", "perplexity"]},
        ["perplexity"],
        {},
        ["the metric rouge1 is ignored: without ground_truth_key there is no answer to compare with"],
    ),
    "code": (
        "text_generation",
        {"ground_truth_key": "answer"},
        {"sub_task": "code", "tokenizer_config": {"return_full_text": True, "max_length": 512},
         "metrics": ["code_eval"], "allow_code_eval": True, "no_of_candidates": [1, 5], "num_workers": 2, "timeout": 3},
        [],
        {},
        [
            "sub_task is ignored: generated code is never run",
            "tokenizer_config is ignored: evaluation_max_new_tokens, num_beams and max_seq_length say how answers are "
            "generated",
            *(f"{key} is ignored: generated code is never run"
              for key in ("allow_code_eval", "no_of_candidates", "num_workers", "timeout")),
            "the metric code_eval is ignored: generated code is never run",
        ],
    ),
    "conversations": (
        "chat_completion",
        {},
        {"metrics": ["perplexity", "bleu_1", "rouge1", "gpt_groundedness", "conversation_groundedness_score"],
         "use_static_script": True, "score_version": "v1"},
        ["perplexity", "bleu_1", "rouge1"],
        {},
        [
            "score_version is ignored: no other model judges the answers",
            "the metric gpt_groundedness is ignored: no other model judges the answers",
            "the metric conversation_groundedness_score is ignored: no other model judges the answers",
        ],
    ),
    "masks": ("pretraining", {}, {"metrics": ["perplexities"]}, ["perplexities"], {}, []),
    "pairs": (
        "preference",
        {"per_device_train_batch_size": 2},
        {"metrics": ["reward_accuracy", "reward_auc"]},
        ["reward_accuracy"],
        {},
        ["the metric reward_auc is ignored: it has no value for pairs"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_of_another_system_is_read_and_what_has_no_effect_is_named(planned, case):
    pipeline, changes, config, metrics, options, told = FILES[case]
    found, notes = planned(pipeline, config, **changes)
    assert found == EvaluationOptions(metrics=metrics, **options)
    assert notes == told


def test_what_asks_for_what_is_done_anyway_is_not_mentioned(planned):
    same = {key: values[0] for key, (values, _) in IDLE_KEYS.items() if values}
    assert planned("chat_completion", {**same, "multilabel": False})[1] == []
    assert all(reason for values, reason in IDLE_KEYS.values() if True not in values or False not in values)


def test_every_name_of_the_other_system_means_a_metric_or_is_explained():
    assert {ours for names in OTHER_NAMES.values() for ours in names} <= KNOWN
    assert not set(NOT_REPORTED) & (KNOWN | set(OTHER_NAMES))
    assert [our_name("f1_score", ["f1"]), our_name("f1_score", ["word_f1"])] == ["f1", "word_f1"]
    assert our_name("accuracy", ["accuracy", "subset_accuracy"]) == "accuracy"


def test_the_configuration_is_a_file_its_text_or_an_object(planned, tmp_path):
    config = {"metrics": ["rouge1"], "stemmer": False}
    expected = EvaluationOptions(metrics=["rouge1"], use_stemmer=False)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file = tmp_path / f"{encoding}.json"
        file.write_text(json.dumps(config), encoding=encoding)
        assert planned("chat_completion", "", evaluation_config=str(file))[0] == expected
    assert planned("chat_completion", "", evaluation_config=json.dumps(config))[0] == expected
    assert planned("chat_completion", "", evaluation_config_params=config)[0] == expected
    given = {"pytorch_model_path": "m", "train_file_path": "t", "evaluation_config": config}
    assert json.loads(read_parameters("chat_completion", given).parameters.evaluation_config) == config


@pytest.mark.parametrize(
    ("pipeline", "config", "words"),
    [
        ("chat_completion", {"ignore_punctuatoins": True}, "PLAN-E0318 .*did you mean ignore_punctuation"),
        ("chat_completion", {"metrics": ["bertscores"]}, "PLAN-E0319"),
        ("chat_completion", {"metrics": ["AUC_binary"]}, "PLAN-E0319"),
        ("text_classification", {"metrics": ["bleu_1"]}, "PLAN-E0319"),
        ("text_classification", {"stemmer": True}, "PLAN-E0314 evaluation_config_params: stemmer"),
        ("chat_completion", {"stemmer": "maybe"}, "PLAN-E0318 evaluation_config_params: use_stemmer"),
    ],
)  # fmt: skip
def test_what_no_system_has_is_still_refused(planned, pipeline, config, words):
    with pytest.raises(UserError) as caught:
        planned(pipeline, config)
    assert re.search(words, str(caught.value))


def test_a_metric_without_a_value_for_the_test_rows_does_not_end_the_evaluation(caplog):
    with caplog.at_level(logging.WARNING, "finetune"):
        chosen = choose_metrics({"loss": 1.0, "accuracy": 0.5}, ["accuracy", "AUC_binary", "f1_score_binary"])
    assert chosen == {"accuracy": 0.5}
    assert "no value for the test rows: AUC_binary, f1_score_binary" in caplog.text
