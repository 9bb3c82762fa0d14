"""Compare the tuned model with its base, and apply the gate."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from steps.adapters.layout import kept_adapter_of, reference_of
from steps.artifacts import Draft, has_manifest, new_artifact, read_manifest, resolve_model
from steps.evaluate.before import model_before, told_before
from steps.evaluate.comparison import Comparison, evaluator
from steps.evaluate.gate import Verdict, judge
from steps.evaluate.metrics import refuse_non_finite
from steps.launch.devices import refuse_missing_gpus
from steps.models.identity import checked
from steps.params.settings import EvaluationSettings
from steps.reports import write_evaluation_report
from steps.reports.facts import HISTORY, INPUTS, read
from steps.reports.plots import write_plots
from steps.reports.reward_training import sample_completions

log = logging.getLogger("finetune")


def evaluate(
    settings: EvaluationSettings,
    base: Path,
    tuned: Path,
    merged: Path,
    data: Path,
    evaluation: Path,
    report: Path | None = None,
) -> bool:
    """Evaluate both models on the rows of the split, write `evaluation`; return whether the gate passed.

    `report` is the place of a page about the evaluation alone; that of the run has the same section.
    Raises UserError if there is no row to evaluate, Outage if an input is missing or changed, OutOfResources if the
    GPU's memory is too small or the requested GPU is missing, NumericError if a metric is not finite.
    """
    refuse_missing_gpus(settings.gpus)
    folders = {"base": base, "tuned": resolve_model(tuned, merged)}
    lineage = {
        "inputs": {name: checked(folder) for name, folder in folders.items()}
        | {"data": read_manifest(data, "data").digest},
        "settings": settings.model_dump(),
    }
    if has_manifest(tuned):
        read_manifest(tuned)  # the evaluation tells its history, also if the weights are in `merged`
    own = reference_of(base)
    more = {"reference": own} if own else {}  # only for preference training
    with model_before(base, evaluation.parent) as before:
        compared = evaluator(settings)(settings, before, folders["tuned"], data, **more)
    chosen = compared.chosen(settings)
    refuse_non_finite(chosen)
    verdict = judge(settings.evaluation, chosen["base"], chosen["tuned"])
    with new_artifact(evaluation, "evaluation", lineage) as draft:
        packages = ("torch", "transformers", *(["peft"] if kept_adapter_of(folders["tuned"]) else []))
        draft.facts = {"versions": {name: version(name) for name in packages}}
        _write_metrics(draft, compared, chosen, verdict, told_before(base))
        (draft / INPUTS).write_text(json.dumps(_facts_of(base, tuned, data), indent=1), encoding="utf-8")
        write_plots(draft / "plots", compared.more)
        pq.write_table(compared.predictions, draft / "predictions.parquet")
    if report:
        write_evaluation_report(evaluation, report)
    log.info(verdict.reason)
    return verdict.passed


def _facts_of(base: Path, tuned: Path, data: Path) -> dict[str, Any]:
    described = read_manifest(base).facts if has_manifest(base) else {}
    completions = sample_completions(tuned)
    return {
        "base": described,
        "training": read(tuned / HISTORY),
        "data": read_manifest(data, "data").facts,
        **({"completions": completions} if completions else {}),
    }


def _write_metrics(
    draft: Draft, compared: Comparison, chosen: dict[str, dict[str, float]], verdict: Verdict, before: str
) -> None:
    told = {**chosen, "rows": len(compared.predictions), "gate": asdict(verdict), **compared.more}
    if before:
        told["base_is"] = before
    (draft / "metrics.json").write_text(json.dumps(told, indent=1, allow_nan=False), encoding="utf-8")
