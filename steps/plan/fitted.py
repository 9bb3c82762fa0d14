"""Values that only the model settles: types inside model_args, and the names behind a regular expression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steps.adapters.targets import in_names
from steps.params.pipeline import SupervisedParameters
from steps.params.reading import Reading, Translation
from steps.plan.sources import ModelFound


def fitted_to_model(reading: Reading, model: ModelFound) -> Reading:
    """Write the parameters in the terms of the model.

    Numbers in model_args get the types that config.json has, because KFP turns every number of an object into a float.
    A regular expression in lora_target_modules becomes the names of the layers that it matches.
    """
    p = reading.parameters
    assert isinstance(p, SupervisedParameters)
    changes: dict[str, Any] = {}
    translations = list(reading.translations)
    if (args := typed_like(p.model_args, model.layout.config)) != p.model_args or repr(args) != repr(p.model_args):
        changes["model_args"] = args
    if p.apply_lora and p.target_expression and (names := in_names(p, model.shapes)):
        changes["lora_target_modules"] = names
        translations.append(Translation("lora_target_modules", p.target_expression, names, by_user=True))
    if not changes:
        return reading
    return replace(reading, parameters=p.model_copy(update=changes), translations=tuple(translations))


def typed_like(value: Any, pattern: Any) -> Any:
    """Return a value with whole numbers as int or float, as they are in `pattern`; int where it does not tell.

    ({"num_hidden_layers": 4.0, "rope_theta": 10000}, config.json) → {"num_hidden_layers": 4, "rope_theta": 10000.0}.
    """
    if isinstance(value, Mapping):
        known = pattern if isinstance(pattern, Mapping) else {}
        return {key: typed_like(item, known.get(key)) for key, item in value.items()}
    if isinstance(value, list):
        first = pattern[0] if isinstance(pattern, list) and pattern else None
        return [typed_like(item, first) for item in value]
    if isinstance(pattern, float) and type(value) is int:
        return float(value)
    if isinstance(value, float) and value.is_integer() and not isinstance(pattern, float):
        return int(value)
    return value
