"""Queries with passages, each of which is relevant or not; a model scores the pair (a cross-encoder).

{"query": "Who wrote it?", "passage": "Ada wrote it.", "relevant": true}
{"query": "Who wrote it?", "passage": "It rained.", "relevant": 0}

The rows of one query are its candidates, in any order. The classes are "0" and "1"; the score of a passage is the
probability of "1".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from steps.params.pipelines.reranking import RerankingColumns
from steps.tasks import Fault, as_found, missing_columns, named_by, text_classification
from steps.tasks.rules.cells import text_faults
from steps.tasks.rules.counting import RECORDS_KEPT, Judgement, Tally
from steps.tasks.rules.labels import as_label, judge_labels

Columns = RerankingColumns
KINDS = ("sequence_classification",)
DOES = "scores how relevant passages are to queries"
EXAMPLE = '[{"query": "Who wrote it?", "passage": "Ada wrote it."}]'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}

# The query is sentence1, the passage sentence2, and the label "1" for a relevant passage, else "0".
SCHEMA = text_classification.SCHEMA
ASKED = text_classification.ASKED
STRATIFY = text_classification.STRATIFY
CLASSES = ["0", "1"]
TOGETHER = "sentence1"  # the candidates of a query are ranked together
TOGETHER_AS = "the candidates of a query"

SCORES = "steps.scoring.ranking_metrics:score_pairs_of_rows"
TEXTS = ("query", "passage")
SCORED = "1"


def columns_of(columns: RerankingColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.query_key, columns.passage_key, columns.relevant_key)


def check_row(row: dict[str, Any], columns: RerankingColumns) -> Iterator[Fault]:
    """Yield the errors in one row: its texts, and a relevance that is neither yes nor no."""
    key = columns.relevant_key
    yield from text_faults(row, (columns.query_key, columns.passage_key), columns)
    if key not in row:
        yield from missing_columns(row, named_by(columns, [key]))
    elif _label(row[key]) is None:
        yield Fault("DATA-E1004", key, as_found(row[key]), "true or false (or 1 or 0)",
                    "write true for a relevant passage and false for another, or remove the row")  # fmt: skip


def remarks(row: dict[str, Any], columns: RerankingColumns) -> Iterator[tuple[str, str]]:
    """Yield nothing: true and 1 are both right."""
    return iter(())


def canonical(row: dict[str, Any], columns: RerankingColumns) -> dict[str, Any]:
    """Return a pair of texts with a label, as for a classification.

    {"query": "Who wrote it?", "passage": "Ada wrote it.", "relevant": true}
    → {"sentence1": "Who wrote it?", "sentence2": "Ada wrote it.", "labels": ["1"]}
    """
    return {
        "sentence1": row[columns.query_key],
        "sentence2": row[columns.passage_key],
        "labels": [_label(row[columns.relevant_key])],
    }


def training_row(row: dict[str, Any], columns: RerankingColumns) -> dict[str, Any]:
    """Return the canonical row, which a classifier's trainer uses unchanged."""
    return row


def question(row: dict[str, Any], columns: RerankingColumns) -> None:
    """Return None: the answer is a score, not generated text."""
    return


def pairs(columns: RerankingColumns) -> bool:
    """Return true: every row is a query with a passage."""
    return True


def label_names(table: pa.Table, columns: RerankingColumns | None = None) -> list[str]:
    """Return the classes, also if the rows have only one of them."""
    return CLASSES


def counted(row: dict[str, Any], columns: RerankingColumns) -> tuple[bool, str]:
    """Count whether passages are relevant, as a bool, and the queries, as texts."""
    return row["labels"] == [SCORED], row["sentence1"]


def judge(tallies: Mapping[str, Tally], columns: RerankingColumns) -> Iterator[Judgement]:
    """Refuse training rows of one class; warn of queries that are in training rows and in held-out ones."""
    yield from judge_labels(
        {split: _labels(tally) for split, tally in tallies.items()}, columns.relevant_key, ",".join(CLASSES), "labels"
    )
    train = tallies.get("train")
    if train is None or not train.rows:
        return
    for split, tally in tallies.items():
        if split != "train" and (both := [key for key in tally.counts if type(key) is str and key in train.counts]):
            first = sorted(record for query in both[:RECORDS_KEPT] for record in tally.records[query])[:RECORDS_KEPT]
            told = f"queries that are also in training rows: {len(both):,}; give {split} rows with queries of their own"
            rows = sum(tally.counts[query] for query in both)
            yield Judgement(split, Fault("DATA-W0705", "", told, "", ""), rows, tuple(first))


def _label(value: Any) -> str | None:
    """Read true, false, 1 and 0, in JSON or as a csv cell; None for anything else."""
    label = as_label(value)
    label = {"true": "1", "false": "0"}.get(label.lower(), label) if label else None
    return label if label in CLASSES else None


def _labels(tally: Tally) -> Tally:
    """Return the counts of the labels alone."""
    labels = Tally()
    labels.rows = tally.rows
    names = {key: CLASSES[key] for key in tally.counts if type(key) is bool}
    labels.counts = Counter({name: tally.counts[key] for key, name in names.items()})
    labels.records = {name: tally.records[key] for key, name in names.items()}
    return labels
