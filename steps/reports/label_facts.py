"""Facts about a classifier: metrics by class, confusion matrix, ROC curves, and wrong rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.charts import confusion_matrix, roc_curve
from steps.reports.formats import cut

ROWS_SHOWN = 10
CLASSES_SHOWN = 100


def label_facts(labels: dict[str, Any], predictions: Path) -> dict[str, Any]:
    """Return the facts for the template labels.html from `labels` in metrics.json."""
    names = labels["names"]
    classes = [{"name": name, **labels["classes"].get(name, {})} for name in names]
    confusion, roc = labels.get("confusion"), labels.get("roc")
    return {
        "labels": labels,
        "classes": classes[:CLASSES_SHOWN],
        "classes_left": len(classes) - min(len(classes), CLASSES_SHOWN),
        "confusion_chart": confusion_matrix(confusion["names"], confusion["counts"]) if confusion else None,
        "roc_chart": roc_curve(roc) if roc else None,
        "curves": sorted(({"name": name, "auc": curve["auc"]} for name, curve in (roc or {}).items()),
                         key=lambda curve: curve["auc"]),
        "label_rows": _rows(predictions) if predictions.is_file() else [],
    }  # fmt: skip


def _rows(predictions: Path) -> list[dict[str, Any]]:
    """Select sample rows: wrong rows first, in order of decreasing probability."""
    import numpy as np
    import pyarrow.parquet as pq

    judged = pq.read_table(predictions, columns=["right", "probability"])
    right = np.array(judged["right"].to_pylist(), dtype=bool)
    sure = np.array(judged["probability"].to_pylist(), dtype=float)  # NaN if several labels may apply
    shown = np.lexsort((-np.nan_to_num(sure), right))[:ROWS_SHOWN].tolist()
    columns = ["row", "sentence1", "sentence2", "label", "base", "predicted", "right", "probability"]
    rows = pq.read_table(predictions, columns=columns).take(shown).to_pylist()
    for row in rows:
        row["sentence1"] = cut(row["sentence1"])
        row["sentence2"] = cut(row["sentence2"]) if row["sentence2"] is not None else None
        for name in ("label", "base", "predicted"):
            row[name] = row[name] if isinstance(row[name], str) else ", ".join(row[name]) or "none"
    return rows
