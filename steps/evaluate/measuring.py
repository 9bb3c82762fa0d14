"""Measure one tuned model on one split, as `evaluate` measures it, without an artifact or a verdict.

For the trials of a sweep, which are compared with each other: the base is not evaluated, except as the reference of
preference training.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from steps.adapters.layout import reference_of
from steps.artifacts import read_manifest
from steps.evaluate.before import model_after, model_before
from steps.evaluate.comparison import evaluator
from steps.evaluate.metrics import refuse_non_finite
from steps.launch.devices import refuse_missing_gpus
from steps.models.identity import checked
from steps.params.settings import EvaluationSettings


def measure(settings: EvaluationSettings, base: Path, tuned: Path, data: Path, scratch: Path) -> dict[str, Any]:
    """Return `metrics` (name → value), `score` (that of gate_metric) and `rows` of the tuned model on the split.

    `tuned` is an adapter or a whole model; an adapter is merged with the base in a temporary folder inside `scratch`.
    The values are those that `evaluate` reports as tuned. Raises as `evaluate`, and as `merge` for an adapter.
    """
    refuse_missing_gpus(settings.gpus)
    read_manifest(data, "data")
    checked(base)
    with ExitStack() as stack:
        model = stack.enter_context(model_after(base, tuned, scratch))
        if model in (base, tuned):
            checked(model)
        compare, more = evaluator(settings), {}
        if "reference" in inspect.signature(compare).parameters:  # the base of evaluate, if there is no other
            more["reference"] = reference_of(base) or stack.enter_context(model_before(base, scratch))
        compared = compare(settings, model, model, data, **more)
    metrics = compared.chosen(settings)["tuned"]
    refuse_non_finite({"tuned": metrics})
    return {
        "metrics": metrics,
        "score": metrics[settings.evaluation.gate_metric],
        "rows": len(compared.predictions),
    }
