"""The step `trial`: train with the parameters of one trial, and measure the result on the validation rows."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from steps import wire
from steps.artifacts import MANIFEST, is_whole, new_artifact, read_manifest
from steps.errors import Outage, Preempted, Problem, StepError, UserError
from steps.outcome import failure
from steps.params.settings import TrialSettings
from steps.params.sweep import DATA, MODEL
from steps.params.wording import in_words_of
from steps.pruning import Pruned, read_curve
from steps.running import CURVE, load
from steps.sweep.result import FILE, KIND, Result, finite, result_in
from steps.sweep.tracked import KEY, NUMBER, OF_SWEEP, as_tag, tell_trial

log = logging.getLogger("finetune")

TAGS = "MLFLOW_TAGS"


def trial(
    settings: TrialSettings, models: Path, data: Path, tuned: Path, measured: Path, report: Path, tuned_uri: str = ""
) -> str:
    """Train and measure one trial; return its result as text, which `measured` has in full as trial.json.

    `models` and `data` hold the numbered folders that the settings name, `tuned` and `report` are as for finetune. A
    trial that fails or is pruned has a result as well, without a tuned model. Raises Outage and Preempted, after which
    the same trial can be repeated.
    """
    if is_whole(measured, KIND):
        return result_in(measured).as_text()
    base, rows = models / MODEL.format(settings.model_place), data / DATA.format(settings.data_place)
    key = key_of(settings, base, rows)
    with _environment(settings, key) as curve:
        result = _result(settings, base, rows, tuned, measured, report, curve)
    result = replace(result, key=key, tuned_uri=tuned_uri if result.state == "finished" else "")
    with new_artifact(measured, KIND, {"settings": settings.model_dump(mode="json")}) as draft:
        (draft / FILE).write_text(json.dumps(asdict(result), indent=1, allow_nan=False), encoding="utf-8")
        draft.facts = {"state": result.state, "score": result.score}
    tell_trial(settings.training.tracking, settings.sweep, result)
    return result.as_text()


def _result(
    settings: TrialSettings, base: Path, rows: Path, tuned: Path, measured: Path, report: Path, curve: Path
) -> Result:
    """Return the result, also of a trial that failed or was stopped, with what it reached."""
    try:
        with in_words_of(settings.names_told):
            return _finished(settings, base, rows, tuned, measured, report)
    except (Outage, Preempted):
        raise
    except Pruned as stop:
        reached = replace(_nothing(settings), state="pruned", reason=str(stop))
    except Exception as error:
        found = failure(error, "finetune")
        if isinstance(found, Outage | Preempted):
            raise found from error
        log.warning("trial %d failed: %s", settings.number, found.problems[0])
        reached = _failed(settings, found)
    told = read_curve(curve)
    if told is None:
        return reached
    return replace(reached, curve=finite(told.points), curve_metric=f"validation {told.metric}", steps=told.step,
                   max_steps=told.max_steps)  # fmt: skip


def _finished(settings: TrialSettings, base: Path, rows: Path, tuned: Path, measured: Path, report: Path) -> Result:
    _refuse_few_rows(settings, rows)
    found: dict[str, Any] = {}

    def measure(model: Path) -> None:
        measured.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=measured.parent, prefix=".measured-") as scratch:
            found.update(load("measure")(settings.measuring, base, model, rows, Path(scratch)))

    load("finetune")(settings.training, base, rows, tuned, None, report, then=measure)
    history = json.loads((tuned / "history.json").read_text(encoding="utf-8"))
    best = settings.training.training.metric_for_best_model
    name = best if any(best in point for point in history["evaluations"]) else "loss"
    score = found["score"]
    log.info("trial %d: %s %.6g on the validation rows", settings.number, _metric(settings), score)
    return replace(
        _nothing(settings),
        state="finished",
        metrics=found["metrics"],
        score=score,
        curve=finite((point["step"], point.get(name)) for point in history["evaluations"]),
        curve_metric=f"validation {name}",
        steps=history["steps"],
        max_steps=history["planned_steps"],
        # Of a training that was resumed, only those of the last process are known.
        seconds=history["seconds"] if history["resumed_from"] is None else None,
        tokens=history["tokens"] if history["resumed_from"] is None else None,
        trained=history["parameters"].get("trainable"),
        mlflow_run_id=history.get("mlflow_run_id") or "",
    )


def _metric(settings: TrialSettings) -> str:
    return settings.measuring.evaluation.gate_metric


def _nothing(settings: TrialSettings) -> Result:
    return Result(settings.number, "failed")


def _failed(settings: TrialSettings, error: StepError) -> Result:
    first = error.problems[0]
    return replace(_nothing(settings), reason=f"{first.found} at {first.where}: {first.fix}"[:300],
                   error=error.as_json("finetune"))  # fmt: skip


def _refuse_few_rows(settings: TrialSettings, rows: Path) -> None:
    """Refuse what prepare_data refuses for a single training: it does not know the batch sizes of the trials."""
    train = read_manifest(rows, "data").facts["splits"]["train"]
    if (count := train["sequences"]) < settings.rows_per_step:
        raise UserError(
            Problem("SWEEP-E0211", "training rows", f"{count} training sequences", f"at least {settings.rows_per_step}"
                    ", the sequences of one optimizer step",
                    "add rows, or lower per_device_train_batch_size or gradient_accumulation_steps")
        )  # fmt: skip


def key_of(settings: TrialSettings, *inputs: Path) -> str:
    """Return the value of the tag by which the trial's MLflow run is found: equal for equal settings and inputs.

    An input without a manifest counts as empty; the training refuses it.
    """
    text = wire.dump(settings.model_dump(mode="json", exclude={"number"}))
    manifests = [place / MANIFEST for place in inputs]
    told = [file.read_bytes() if file.is_file() else b"" for file in manifests]
    return hashlib.sha256(b"\n".join([text.encode(), *told])).hexdigest()[:16]


def _tags(settings: TrialSettings, key: str) -> dict[str, str]:
    """Return the tags of the trial's MLflow run."""
    of_sweep = {OF_SWEEP: as_tag(settings.sweep), NUMBER: str(settings.number)} if settings.sweep else {}
    return {KEY: key, **of_sweep}


@contextmanager
def _environment(settings: TrialSettings, key: str) -> Iterator[Path]:
    """Tag the MLflow run of the training, and have it write its curve; yields the file of the curve."""
    before = dict(os.environ)
    try:
        given = json.loads(os.environ.get(TAGS) or "{}")
    except ValueError:
        given = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[TAGS] = json.dumps({**(given if isinstance(given, dict) else {}), **_tags(settings, key)})
        os.environ.setdefault(CURVE, f"{scratch}/curve.jsonl")
        try:
            yield Path(os.environ[CURVE])
        finally:
            os.environ.clear()
            os.environ.update(before)
