"""Rows of queries with passages: what is wrong with them, what becomes of them, and what is planned for them."""

import json

import pyarrow as pa
import pytest
from checking import check_data
from classifiers import build_bert
from conftest import write_jsonl
from data_cases import Case, check_verdict

from steps import wire
from steps.params.pipelines.reranking import RerankingColumns
from steps.params.settings import EvaluationSettings, RegistrationSettings
from steps.plan.step import plan
from steps.tasks import load_task, reads_pairs

TASK = load_task("reranking")


def rows_of(queries: int, candidates: int = 3, start: int = 0) -> list[dict]:
    """Rows of several queries, the first candidate of each relevant."""
    return [
        {"query": f"the red {query}", "passage": f"a plum {query} {place}", "relevant": place == 0}
        for query in range(start, start + queries)
        for place in range(candidates)
    ]


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def judged(*values) -> str:
    return lines([{"query": f"q {n}", "passage": f"p {n}", "relevant": value} for n, value in enumerate(values)])


def csv(*values) -> str:
    return "query,passage,relevant\n" + "".join(f"q {n},p {n},{value}\n" for n, value in enumerate(values))


HELD = {"validation": lines(rows_of(4, start=50)), "test": lines(rows_of(4, start=60))}
CASES = [
    Case(0, "good rows", lines(rows_of(10)), "", **HELD),
    Case(0, "numbers, and words of a csv file", csv(1, 0, "true", "false", "TRUE", "False", "1.0", 0, 1, 0), "",
         name="train.csv"),
    Case(0, "graded relevance", judged(True, 2, False), "DATA-E1004", ":2 (record 2) relevant",
         "found 2; expected true or false (or 1 or 0)"),
    Case(0, "a word", judged(True, "yes", False), "DATA-E1004", ":2 (record 2) relevant", 'found "yes"'),
    Case(0, "null", judged(None, True, False), "DATA-E1004", ":1 (record 1) relevant", "found null"),
    Case(0, "no judgement", lines([{"query": "q", "passage": "p"}]), "DATA-E0601", ":1 (record 1) relevant",
         "set relevant_key"),
    Case(0, "another column", lines([{"question": "q", "passage": "p", "relevant": 1}]), "DATA-E0601",
         ":1 (record 1) query", "set query_key"),
    Case(0, "an empty passage", lines([{"query": "q", "passage": " ", "relevant": 1}]), "DATA-E0603",
         ":1 (record 1) passage"),
    Case(0, "relevant passages only", judged(*[True] * 10), "DATA-E1005", " relevant", "add rows of another class"),
    Case(0, "a query of the training rows", lines(rows_of(10)), "DATA-W0705", validation=HELD["validation"],
         test=lines([*rows_of(3, start=70), *rows_of(1, candidates=5, start=9)[3:]]), count=2,
         says="queries that are also in training rows: 1; give test rows with queries of their own"),
    Case(0, "test rows held out", lines(rows_of(10)), "DATA-F2401", count=6,
         says="the candidates of a query stay in one split"),
    Case(0, "one candidate for each query", judged(*[True, False] * 10), ""),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_queries_with_passages(case, tmp_path):
    checked = check_verdict(case, tmp_path, "reranking")
    if checked and not case.verdict:
        assert checked.warnings == []
        assert checked.repairs == [] or {repair["code"] for repair in checked.repairs} == {"DATA-F2401"}


def test_queries_of_training_rows_are_found_in_validation_rows_too_with_their_records(tmp_path):
    files = {
        "train": write_jsonl(tmp_path / "train.jsonl", rows_of(10)),
        "validation": write_jsonl(tmp_path / "held.jsonl", [*rows_of(2, start=30), *rows_of(2, 4, start=8)[3::4]]),
        "test": write_jsonl(tmp_path / "test.jsonl", rows_of(3, start=20)),
    }  # fmt: skip
    [warning] = check_data("reranking", min_train_rows=1, **files).warnings
    assert (warning["code"], warning["count"], warning["rows"]) == ("DATA-W0705", 2, [7, 8])
    assert warning["what"].endswith(
        "queries that are also in training rows: 2; give validation rows with queries of their own"
    )


def test_a_row_becomes_a_pair_with_a_label():
    columns = RerankingColumns(query_key="ask", passage_key="text", relevant_key="good")
    for value, label in ((True, "1"), (0, "0"), (1.0, "1"), ("false", "0")):
        row = {"ask": "a?", "text": "b\u2028c", "good": value, "id": 7}
        assert list(TASK.check_row(row, columns)) == []
        expected = {"sentence1": "a?", "sentence2": "b\u2028c", "labels": [label]}
        assert pa.Table.from_pylist([TASK.canonical(row, columns)], TASK.SCHEMA).to_pylist() == [expected]
    assert reads_pairs("reranking", columns.model_dump())


def test_the_classes_are_the_same_where_only_one_occurs():
    table = pa.table({"labels": [["1"], ["1"]]})
    assert TASK.label_names(table) == ["0", "1"]


@pytest.fixture
def planned(tmp_path, monkeypatch):
    build_bert(tmp_path / "bert")
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    given = {
        "pytorch_model_path": str(tmp_path / "bert"), "number_of_gpu_to_use_finetuning": 0,
        "train_file_path": str(write_jsonl(tmp_path / "train.jsonl", rows_of(20))),
    }  # fmt: skip

    def run(**changes) -> tuple[EvaluationSettings, RegistrationSettings]:
        made = plan("reranking", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
        read = lambda model, text: model.model_validate(wire.load(text))  # noqa: E731
        return read(EvaluationSettings, made.evaluation), read(RegistrationSettings, made.registration)

    return run


def test_a_cross_encoder_is_planned_as_a_classifier_of_pairs_that_is_judged_by_its_rankings(planned):
    evaluation, registration = planned(
        gate_metric="mrr", gate_min_value=0.9, evaluation_config_params='{"metrics": ["ndcg_10", "f1_binary"]}'
    )
    assert (evaluation.kind, evaluation.evaluation.gate_metric) == ("sequence_classification", "mrr")
    assert evaluation.options.metrics == ["ndcg_10", "f1_binary"]
    assert (registration.pairs, registration.task) == (True, "reranking")


def test_a_registered_model_takes_queries_and_passages_and_gives_scores(planned, tmp_path):
    from steps.register_model.packaging import _of_task
    from steps.register_model.signatures import of_labels

    _, registration = planned()
    signature = of_labels(registration, tmp_path / "bert", False)
    assert signature.inputs.input_names() == ["query", "passage"]
    assert signature.outputs.input_names() == ["label", "probability", "score"]
    assert _of_task("reranking") == {"texts": ("query", "passage"), "scored": "1"}
