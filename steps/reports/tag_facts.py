"""Facts about a tagger: metrics by entity type, and wrong sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.label_facts import CLASSES_SHOWN, ROWS_SHOWN

WORDS_SHOWN = 80


def tag_facts(tags: dict[str, Any], predictions: Path) -> dict[str, Any]:
    """Return the facts for the template tags.html from `tags` in metrics.json."""
    classes = [{"name": name, **values} for name, values in tags["classes"].items()]
    return {
        "tags": tags,
        "classes": classes[:CLASSES_SHOWN],
        "classes_left": max(len(classes) - CLASSES_SHOWN, 0),
        "tag_rows": _rows(predictions) if predictions.is_file() else [],
    }


def _rows(predictions: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    right = pq.read_table(predictions, columns=["right"])["right"].to_pylist()
    shown = sorted(range(len(right)), key=lambda row: (right[row], row))[:ROWS_SHOWN]
    return [_row(row) for row in pq.read_table(predictions).take(shown).to_pylist()]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    triples = list(zip(row["tokens"], row["tags"], row["predicted"], strict=True))
    words = [{"text": text, "right": tag, "said": said, "wrong": tag != said} for text, tag, said in triples]
    return {**row, "words": words[:WORDS_SHOWN], "more": max(len(words) - WORDS_SHOWN, 0)}
