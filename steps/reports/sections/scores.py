"""The scores section: metrics of the answers of batch inference, and wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.params.metrics import KNOWN, direction_of
from steps.reports.facts import METRICS, PREDICTIONS, read
from steps.reports.formats import cut, number
from steps.reports.page import Section

READS = "scores"

WRONG_SHOWN = 6


def section(scores: Path) -> Section:
    """Read metrics.json and predictions.parquet of the artifact `scores`."""
    measured = read(scores / METRICS)
    if not measured:
        return Section("scores", "Scores", missing=f"The folder of the scores has no {METRICS}.")
    metrics = [
        {"name": name, "value": number(value), "higher": direction_of(name) if name in KNOWN else None}
        for name, value in measured["answers"].items()
    ]
    return Section("scores", "Scores", {**measured, "metrics": metrics, "wrong": _wrong(scores / PREDICTIONS)})


def _wrong(file: Path) -> list[dict[str, Any]]:
    """Return the first answers that differ from their reference; only their texts are read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[dict[str, Any]] = []
    if not file.is_file():
        return found
    for batch in pq.ParquetFile(file).iter_batches():
        wrong = [place for place, right in enumerate(batch.column("exact").to_pylist()) if right is False]
        places = pa.array(wrong[: WRONG_SHOWN - len(found)], pa.int64())  # a type, as there may be none
        found += batch.take(places).to_pylist()
        if len(found) == WRONG_SHOWN:
            break
    return [{**row, **{name: cut(row[name] or "") for name in ("prompt", "reference", "answer")}} for row in found]
