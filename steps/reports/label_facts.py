"""What a classifier got right: which labels it mixes up, how sure it can be asked to be, and the rows it got wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.charts import roc_chart
from steps.reports.formats import cut

ROWS_SHOWN = 10
CURVES_DRAWN = 6
CLASSES_SHOWN = 100


def label_facts(labels: dict[str, Any], predictions: Path) -> dict[str, Any]:
    """Make the facts of the template labels.html from the part of metrics.json that is called `labels`."""
    names = labels["names"]
    classes = [{"name": name, **labels["classes"].get(name, {})} for name in names]
    roc = labels.get("roc") or {}
    # The hardest classes tell most.
    drawn = dict(sorted(roc.items(), key=lambda item: item[1]["auc"])[:CURVES_DRAWN])
    confusion = labels.get("confusion")
    return {
        "labels": labels,
        "classes": classes[:CLASSES_SHOWN],
        "classes_left": len(classes) - min(len(classes), CLASSES_SHOWN),
        "confusion": _shares(confusion["counts"], confusion["names"]) if confusion and len(names) <= 20 else [],
        "roc_chart": roc_chart(drawn) if drawn else None,
        "curves": [{"name": name, "auc": curve["auc"]} for name, curve in drawn.items()],
        "label_rows": _rows(predictions) if predictions.is_file() else [],
    }


def _shares(counts: list[list[int]], names: list[str]) -> list[dict[str, Any]]:
    """One line for each right label, with each cell's share of that line in percent."""
    return [
        {"name": name, "cells": [{"count": count, "share": 100 * count / max(sum(line), 1), "right": place == other}
                                 for other, count in enumerate(line)]}
        for place, (name, line) in enumerate(zip(names, counts, strict=True))
    ]  # fmt: skip


def _rows(predictions: Path) -> list[dict[str, Any]]:
    """Choose rows to judge by eye: wrong ones first, the surest of them at the top."""
    import numpy as np
    import pyarrow.parquet as pq

    judged = pq.read_table(predictions, columns=["right", "probability"])
    right = np.array(judged["right"].to_pylist(), dtype=bool)
    sure = np.array(judged["probability"].to_pylist(), dtype=float)  # NaN where several labels may apply
    shown = np.lexsort((-np.nan_to_num(sure), right))[:ROWS_SHOWN].tolist()
    columns = ["row", "sentence1", "sentence2", "label", "base", "predicted", "right", "probability"]
    rows = pq.read_table(predictions, columns=columns).take(shown).to_pylist()
    for row in rows:
        row["sentence1"] = cut(row["sentence1"])
        row["sentence2"] = cut(row["sentence2"]) if row["sentence2"] is not None else None
        for name in ("label", "base", "predicted"):
            row[name] = row[name] if isinstance(row[name], str) else ", ".join(row[name]) or "none"
    return rows
