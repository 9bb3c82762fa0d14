"""Gather weights that are split over the processes of a training, and change their data type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.launch.group import current
from steps.models.weights import stored_tensors


def whole_weights(trainer: Any) -> dict[str, Any] | None:
    """Gather split weights on the CPU of the first process, without frozen weights for a model with an adapter.

    All processes have to call this. Returns None if the weights are not split, and an empty dictionary in the others.
    """
    if trainer.is_fsdp_enabled:
        return _gathered(trainer.model)
    engine = trainer.model_wrapped
    if not hasattr(engine, "zero_optimization_partition_weights") or not engine.zero_optimization_partition_weights():
        return None
    adapted = hasattr(trainer.model, "peft_config")
    return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=adapted) or {}


def _gathered(model: Any) -> dict[str, Any]:
    """Gather the shards of fully_shard, one tensor at a time; one tensor under two names stays one tensor."""
    trained = {name for name, one in model.named_parameters(remove_duplicate=False) if one.requires_grad}
    adapted, first = hasattr(model, "peft_config"), current().is_first
    whole: dict[str, Any] = {}
    known: dict[int, Any] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if adapted and name not in trained:
            continue
        if id(tensor) not in known:
            shared = hasattr(tensor, "full_tensor")
            gathered = tensor.detach().full_tensor() if shared else tensor.detach()
            known[id(tensor)] = gathered.cpu() if first else None
        if first:
            whole[name] = known[id(tensor)]
    return whole


def change_dtype(weights: dict[str, Any], dtype: Any) -> None:
    """Convert gathered weights in place; one tensor under two names stays one tensor."""
    changed: dict[int, Any] = {}
    for name, tensor in list(weights.items()):
        weights[name] = changed.setdefault(id(tensor), tensor.to(dtype))


def left_out(model: Any, folder: Path) -> set[str]:
    """Return the names of the tensors in a model folder that the model does not have."""
    stored = {name for file in folder.glob("*.safetensors") for name in stored_tensors(file)}
    return stored - set(model.state_dict())


def size_of(parameter: Any) -> int:
    """Return the number of elements of a parameter, also if ZeRO-3 partitioned it."""
    return int(getattr(parameter, "ds_numel", None) or parameter.numel())
