"""Convert parameters to PEFT's configuration, for every kind of adapter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from steps.errors import Problem, UserError
from steps.kinds import load
from steps.kinds.adapters import ADAPTER_KINDS
from steps.params.lora import LoraParams

log = logging.getLogger("finetune")


def adapter_config(lora: LoraParams, model: Any, task: str | None, new_modules: Sequence[str]) -> Any:
    """Return the configuration for the kind in peft_type.

    `new_modules` are trained and saved as a whole. Raises UserError if none of the named layers exists in the model;
    names without a matching layer are logged.
    """
    kind = ADAPTER_KINDS[lora.peft_type]
    made = load(kind.config)(task_type=task, **load(kind.settings_by)(lora, model, new_modules))
    _warn_of_patterns(made, model)
    return made


def before_text(lora: LoraParams, model: Any, new_modules: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a kind that adds vectors before the text and changes no layer."""
    return {**lora.peft_settings, **lora.peft_kwargs}


def in_layers(lora: LoraParams, model: Any, new_modules: Sequence[str]) -> dict[str, Any]:
    """Return the settings of a kind that is put into layers."""
    given = {**lora.peft_settings, **lora.peft_kwargs}
    # Modules that are trained as a whole get no adapter, neither do the layers inside them.
    excluded = [*given.get("exclude_modules", []), *_linear_inside(model, new_modules)]
    return {
        **given,
        "target_modules": _targets(lora, model),
        "modules_to_save": list(new_modules) or None,
        "exclude_modules": excluded or None,
    }


def in_layers_of_ia3(lora: LoraParams, model: Any, new_modules: Sequence[str]) -> dict[str, Any]:
    """Return IA3's settings, which also name the layers whose inputs it scales."""
    given = in_layers(lora, model, new_modules)
    feedforward = given.get("feedforward_modules", _feedforward(model, given["target_modules"]))
    targets = _by_name(model, given["target_modules"], feedforward)
    return {**given, "feedforward_modules": feedforward, "target_modules": targets}


def _feedforward(model: Any, targets: str | list[str]) -> list[str]:
    """Return the layers whose inputs IA3 scales, from PEFT's table; none for a model type that is not in the table."""
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING

    usual = TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.get(model.config.model_type, [])
    return [name for name in usual if isinstance(targets, str) or name in targets]


def _by_name(model: Any, targets: str | list[str], feedforward: list[str]) -> list[str]:
    """Return the target modules by name: for all-linear, the names of all linear layers and `feedforward`.

    PEFT 0.21 saves all-linear as full paths, and then refuses to load an adapter whose feedforward_modules are names.
    """
    if not isinstance(targets, str):
        return targets
    head = model.get_output_embeddings()
    paths = [path for path in _linear(model) if model.get_submodule(path) is not head]
    return sorted({_name(path) for path in paths} | set(feedforward))


def _name(path: str) -> str:
    """Return the last part of a path; if that is a number, the last two."""
    whole = path.split(".")
    return whole[-1] if not whole[-1].isdigit() else ".".join(whole[-2:])


def _linear_inside(model: Any, modules: Sequence[str]) -> list[str]:
    return [name for name in _linear(model) if any(f"{name}.".startswith(f"{new}.") for new in modules)]


def _linear(model: Any) -> list[str]:
    """Return the paths of the layers that can have an adapter; bitsandbytes' layers are subclasses of torch's."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear | Conv1D)]


def _targets(lora: LoraParams, model: Any) -> str | list[str]:
    names = lora.targets
    if not names:
        return lora.lora_target_modules
    linear = _linear(model)
    there = [name for name in names if any(path == name or path.endswith("." + name) for path in linear)]
    if not there:
        layers = ", ".join(sorted({path.rsplit(".", 1)[-1] for path in linear}))
        raise UserError(
            Problem("TRAIN-E0201", "lora_target_modules", lora.lora_target_modules, f"names of linear layers: {layers}",
                    "set lora_target_modules=all-linear")
        )  # fmt: skip
    for name in sorted(set(names) - set(there)):
        log.warning("WARNING lora_target_modules: the model has no layer %s", name)
    return there


def _warn_of_patterns(config: Any, model: Any) -> None:
    """Log names in peft_kwargs that match no layer, because PEFT ignores them without a warning."""
    import re

    linear = _linear(model)
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(config, key, None) or {}:
            if not any(re.match(rf"(.*\.)?({pattern})$", path) for path in linear):
                log.warning("WARNING peft_kwargs.%s: the model has no layer %s", key, pattern)
    for key in ("exclude_modules", "feedforward_modules"):
        for name in (getattr(config, key, None) or ()) if not isinstance(getattr(config, key, None), str) else ():
            if not any(path == name or path.endswith("." + name) for path in linear):
                log.warning("WARNING peft_kwargs.%s: the model has no layer %s", key, name)
