"""The parameters of a training, as MLflow records them: the effective values, without those of other pipelines."""

from __future__ import annotations

from functools import cache
from typing import Any

from steps.params.pipeline import SupervisedParameters
from steps.params.pipelines import PARAMETER_MODELS
from steps.params.settings import FinetuneSettings


def parameters_of(settings: FinetuneSettings, data: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a training, and where its data came from; `data` is the lineage of the data artifact."""
    own = PARAMETER_MODELS.get(settings.pipeline)
    foreign = _all() - set(own.model_fields) if own else frozenset()
    told = _without(settings.model_dump(mode="json"), foreign)
    source = (data.get("settings") or {}).get("source") or {}
    given = {name: value for name, value in _without(source, foreign).items() if value not in ("", {}, [])}
    return {**told, **({"data": given} if given else {})}


def _without(values: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    kept = {}
    for name, value in values.items():
        if name in names or value is None:
            continue
        kept[name] = _without(value, names) if isinstance(value, dict) else value
    return kept


@cache
def _all() -> frozenset[str]:
    """Return the parameters of all trainings; others may have the name of something that a training's plan decides."""
    models = [model for model in PARAMETER_MODELS.values() if issubclass(model, SupervisedParameters)]
    return frozenset(name for model in models for name in model.model_fields)
