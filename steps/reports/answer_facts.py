"""Facts about extracted answers: the worst questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.formats import cut
from steps.reports.label_facts import ROWS_SHOWN


def answer_facts(answers: dict[str, Any], predictions: Path) -> dict[str, Any]:
    """Return the facts for the template answers.html from `answers` in metrics.json."""
    return {"answers": answers, "answer_rows": _rows(predictions) if predictions.is_file() else []}


def _rows(predictions: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    scores = pq.read_table(predictions, columns=["f1"])["f1"].to_pylist()
    shown = sorted(range(len(scores)), key=lambda row: (scores[row], row))[:ROWS_SHOWN]
    rows = pq.read_table(predictions).take(shown).to_pylist()
    return [{**row, "question": cut(row["question"]), "context": cut(row["context"])} for row in rows]
