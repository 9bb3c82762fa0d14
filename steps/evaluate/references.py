"""Score the answers of batch inference against the references of their rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import new_artifact, read_manifest
from steps.errors import Problem, UserError
from steps.evaluate.metrics import right_ones, text_scores
from steps.params.settings import ScoreSettings
from steps.reports.facts import METRICS, PREDICTIONS
from steps.scoring.scored import choose_metrics

log = logging.getLogger("finetune")

COLUMNS = ["row", "sample", "prompt_text", "reference", "generations"]
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("sample", pa.int32()),
        pa.field("prompt", pa.string()),
        pa.field("reference", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("exact", pa.bool_()),
    ]
)


def score(settings: ScoreSettings, generations: Path, scores: Path, report: Path | None = None) -> dict[str, float]:
    """Compare the answers of `generations` with their references, write `scores`; return the metrics.

    `scores` (kind scores) has metrics.json (`answers`: metric → value, as text_generation has them; `rows`, `answered`
    and `judged`, the numbers of rows, answers and answers with a reference) and predictions.parquet. Several answers to
    a row count each. `report` is a page about the answers and their scores. Raises UserError if no row has a reference.
    """
    manifest = read_manifest(generations, "generations")
    lineage = {"inputs": {"generations": manifest.digest}, "settings": settings.model_dump()}
    with new_artifact(scores, "scores", lineage) as draft:
        answers, references = _write_predictions(draft / PREDICTIONS, generations, settings)
        values = choose_metrics(text_scores(answers, references, settings.options), settings.options.metrics)
        facts = manifest.facts
        told = {"answers": values, "rows": facts["rows"], "answered": facts["answers"], "judged": len(answers)}
        (draft / METRICS).write_text(json.dumps(told, indent=1, allow_nan=False), encoding="utf-8")
    if report:
        from steps.reports import write_generations_report  # imports jinja2, which only a report needs

        write_generations_report(generations, report, scores)
    log.info("scored %s answers", f"{len(answers):,}")
    return values


def _write_predictions(file: Path, generations: Path, settings: ScoreSettings) -> tuple[list[str], list[str]]:
    """Write the answers with a reference; return these and their references. Raises UserError if there are none."""
    answers: list[str] = []
    references: list[str] = []
    with pq.ParquetWriter(file, SCHEMA) as writer:
        for table in _judged(generations):
            given, right = (table[name].to_pylist() for name in ("generations", "reference"))
            correct = pa.array(right_ones(given, right, settings.options), pa.bool_())
            writer.write_table(pa.table([*table.columns, correct], schema=SCHEMA))
            answers += given
            references += right
    if not answers:
        raise UserError(
            Problem("EVAL-E0231", str(generations), "no row with a reference", "references to compare answers with",
                    "name the column with the right answers, or leave this step out")
        )  # fmt: skip
    return answers, references


def _judged(generations: Path) -> Iterator[pa.Table]:
    """Give the answers with a reference, some thousand at a time, in the columns of SCHEMA without the last."""
    for file in sorted(generations.glob("generations_*.parquet")):
        for batch in pq.ParquetFile(file).iter_batches(columns=COLUMNS):
            table = pa.table(batch.select(COLUMNS))
            yield table.filter(table["reference"].is_valid())
