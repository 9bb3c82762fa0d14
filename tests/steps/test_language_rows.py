"""What valid rows of the language tasks become: one form for all later steps, and lists of classes and tags."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checking import check_data
from test_data_nlp import GOOD_TAGS, labelled, tagged, words

from steps.params.task_columns import (
    AnswerColumns,
    ClassificationColumns,
    SummarizationColumns,
    TokenColumns,
    TranslationColumns,
)
from steps.tasks import load_task

# Task, its columns, a row of the user's file, and what every later step reads.
CANONICAL = [
    ("text_classification", ClassificationColumns(sentence1_key="a", sentence2_key="b", label_key="c"),
     {"a": "x\u2028y", "b": "z", "c": 5.0, "d": 1}, {"sentence1": "x\u2028y", "sentence2": "z", "labels": ["5"]}),
    ("text_classification", ClassificationColumns(),
     {"sentence1": "x", "label": True}, {"sentence1": "x", "sentence2": None, "labels": ["1"]}),
    ("text_classification", ClassificationColumns(multilabel=True, label_separator=";"),
     {"sentence1": "x", "label": "b;a;b"}, {"sentence1": "x", "sentence2": None, "labels": ["b", "a"]}),
    ("text_classification", ClassificationColumns(multilabel=True),
     {"sentence1": "x", "label": []}, {"sentence1": "x", "sentence2": None, "labels": []}),
    ("token_classification", TokenColumns(token_key="w", tag_key="t", tags="O,B-X"),
     {"w": ["a", "b"], "t": [1, "O"]}, {"tokens": ["a", "b"], "tags": ["B-X", "O"]}),
    ("question_answering", AnswerColumns(),
     {"question": "q", "context": "c 🙂 d", "answers": {"text": ["d", "c"], "answer_start": [4, 0]}},
     {"question": "q", "context": "c 🙂 d", "answers": [{"text": "d", "start": 4}, {"text": "c", "start": 0}]}),
    ("question_answering", AnswerColumns(answers_key=""),
     {"question": "q", "context": "c", "text": "", "answer_start": ""},
     {"question": "q", "context": "c", "answers": []}),
    ("summarization", SummarizationColumns(document_key="a", summary_key="b"), {"a": "long", "b": "s"},
     {"document": "long", "summary": "s"}),
    ("translation", TranslationColumns(source_lang="fr", target_lang="ro"), {"fr": "chat", "ro": "pisică"},
     {"source": "chat", "target": "pisică"}),
    ("translation", TranslationColumns(translation_key="t"), {"t": {"en": "cat", "de": "Katze", "fr": "chat"}},
     {"source": "cat", "target": "Katze"}),
    ("pretraining", load_task("pretraining").Columns(text_key="body"), {"body": "once"}, {"text": "once"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "columns", "row", "expected"), CANONICAL)
def test_a_canonical_row_survives_parquet_unchanged(tmp_path, name, columns, row, expected):
    task = load_task(name)
    assert list(task.check_row(row, columns)) == []
    canonical = task.canonical(row, columns)
    pq.write_table(pa.Table.from_pylist([canonical], task.SCHEMA), tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == [canonical] == [expected]


def test_what_is_asked_and_learned_needs_no_column_names():
    summary = load_task("summarization")
    row = {"document": "long", "summary": "s"}
    assert summary.training_row(row, summary.Columns()) == {"prompt": "summarize: long\n", "completion": "s"}
    assert summary.question(row, summary.Columns(text_separator=r"\nIn short: ")) == (
        "summarize: long\nIn short: ",
        "s",
    )
    translation = load_task("translation")
    row = {"source": "cat", "target": "Katze"}
    asked = "translate English to German: cat\n"
    assert translation.training_row(row, translation.Columns()) == {"prompt": asked, "completion": "Katze"}
    assert translation.question(row, translation.Columns()) == (asked, "Katze")
    other = translation.Columns(source_lang="qaa", target_lang="fr")
    assert translation.prompt_form(other) == ("translate qaa to French: ", "\n")
    assert translation.prompt_form(translation.Columns(prompt_prefix="", text_separator=" = ")) == ("", " = ")
    text = load_task("pretraining")
    assert text.training_row({"text": "once"}, text.Columns()) == {"text": "once"}
    assert text.question({"text": "once"}, text.Columns()) is None


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b", "C"], ["C", "a", "b"]),
        ([10, 9, 1, 9], ["1", "9", "10"]),
        (["10", "9", "-2"], ["-2", "9", "10"]),
        (["10", "9", "x"], ["10", "9", "x"]),
        ([True, False, 1.0], ["0", "1"]),
        (["01", "1", "0"], ["0", "01", "1"]),
    ],
)
def test_the_class_list_is_sorted_as_numbers_or_as_text(tmp_path, labels, names):
    file = tmp_path / "train.jsonl"
    file.write_text(labelled(*labels, *labels, *labels))
    task = load_task("text_classification")
    rows = check_data("text_classification", file, min_train_rows=1, scratch=tmp_path).rows
    together = pa.concat_tables([part.table() for part in rows.values()])
    assert task.label_names(together) == names
    assert task.label_names(together, ClassificationColumns(labels="z, y")) == ["z", "y"]
    assert together.column(task.STRATIFY).type == pa.list_(pa.string())


def test_the_tag_list_is_sorted_or_as_listed(tmp_path):
    file = tmp_path / "train.jsonl"
    file.write_text(tagged(*words(*GOOD_TAGS)))
    task = load_task("token_classification")
    rows = check_data("token_classification", file, min_train_rows=1, scratch=tmp_path).rows
    together = pa.concat_tables([part.table() for part in rows.values()])
    assert task.label_names(together) == ["B-LOC", "B-PER", "I-LOC", "I-PER", "O"]
    assert task.label_names(together, TokenColumns(tags="O,B-PER,I-PER")) == ["O", "B-PER", "I-PER"]


def test_column_names_that_cannot_all_be_true_are_refused():
    conflicts = {
        ("PARAM-E0208", "label_key"): ClassificationColumns(sentence1_key="text", label_key="text"),
        ("PARAM-E0208", "context_key"): AnswerColumns(question_key="text", context_key="text"),
        ("PARAM-E0208", "answer_start_key"): AnswerColumns(answers_key="", answer_start_key="text"),
        ("PARAM-E0209", "target_lang"): TranslationColumns(source_lang="de"),
    }
    for expected, columns in conflicts.items():
        assert [(problem.code, problem.where) for problem in columns.all_conflicts()] == [expected]
    assert AnswerColumns(context_key="text").all_conflicts() == []  # a name inside answers_key is no column
