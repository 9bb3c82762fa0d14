"""Compare the tuned model with the one it came from, and judge it."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import (
    MANIFEST,
    Draft,
    Manifest,
    describe_files,
    new_artifact,
    read_manifest,
    resolve_model,
    verified,
)
from steps.evaluate import ENGINES
from steps.evaluate.gate import Verdict, judge, refuse_unmeasurable
from steps.evaluate.held_out import HeldOut, Measured, read_held_out
from steps.evaluate.metrics import exact, refuse_non_finite, score
from steps.params.settings import EvaluationSettings
from steps.reports import write_evaluation_report

log = logging.getLogger("finetune")

Engine = Callable[[Path, HeldOut, EvaluationSettings], Measured]


def evaluate(
    settings: EvaluationSettings, base: Path, tuned: Path, merged: Path, data: Path, evaluation: Path, report: Path
) -> bool:
    """Measure both models on the test rows, write `evaluation` and `report`; return whether to register the tuned one.

    Raises UserError when there is nothing to measure, Outage when an input is gone or was changed, OutOfResources when
    the GPU is too small, NumericError when a metric is not finite.
    """
    folders = {"base": base, "tuned": resolve_model(tuned, merged)}
    lineage = {
        "inputs": {name: _checked(folder) for name, folder in folders.items()}
        | {"data": read_manifest(data, "data").digest},
        "settings": settings.model_dump(),
    }
    held_out = read_held_out(settings, data, base)
    refuse_unmeasurable(settings.evaluation, held_out.asked)
    measure = _engine("transformers")
    measured = {name: measure(folder, held_out, settings) for name, folder in folders.items()}
    scores = {name: score(one, held_out.references) for name, one in measured.items()}
    refuse_non_finite(scores)
    if (answers := [a for a in measured["tuned"].answers if a is not None]) and not any(a.strip() for a in answers):
        log.warning("WARNING every answer of the tuned model is empty")
    verdict = judge(settings.evaluation, scores["base"], scores["tuned"])
    with new_artifact(evaluation, "evaluation", lineage) as draft:
        draft.facts = {"versions": {name: version(name) for name in ("torch", "transformers")}}
        _write_metrics(draft, scores, len(held_out), verdict)
        _write_predictions(draft, held_out, measured)
    write_evaluation_report(evaluation, report)
    log.info(verdict.reason)
    return verdict.passed and settings.register_tuned_model


def _engine(name: str) -> Engine:
    module, _, function = ENGINES[name].partition(":")
    return getattr(importlib.import_module(module), function)


def _checked(folder: Path) -> str:
    """Check a model's bytes and return their digest; a folder as a user has it, without manifest, will do."""
    if (folder / "config.json").is_file() and not (folder / MANIFEST).exists():
        return Manifest("model", describe_files(folder)).digest
    return verified(folder, "model").digest


def _write_metrics(draft: Draft, scores: dict[str, dict[str, float]], rows: int, verdict: Verdict) -> None:
    text = json.dumps({**scores, "rows": rows, "gate": asdict(verdict)}, indent=1, allow_nan=False)
    (draft / "metrics.json").write_text(text, encoding="utf-8")


def _write_predictions(draft: Draft, held_out: HeldOut, measured: dict[str, Measured]) -> None:
    base, tuned = measured["base"], measured["tuned"]
    columns = {
        "row": pa.array(range(len(held_out)), pa.int64()),
        "prompt": pa.array(held_out.prompts, pa.string()),
        "reference": pa.array(held_out.references, pa.string()),
        "base": pa.array(base.answers, pa.string()),
        "tuned": pa.array(tuned.answers, pa.string()),
        "base_exact": pa.array(_right(base.answers, held_out.references), pa.bool_()),
        "tuned_exact": pa.array(_right(tuned.answers, held_out.references), pa.bool_()),
        "base_loss": pa.array(base.row_losses, pa.float64()),
        "tuned_loss": pa.array(tuned.row_losses, pa.float64()),
    }
    pq.write_table(pa.table(columns), draft / "predictions.parquet")


def _right(answers: list[str | None], references: list[str | None]) -> list[bool | None]:
    return [
        None if answer is None or reference is None else exact(answer, reference)
        for answer, reference in zip(answers, references, strict=True)
    ]
