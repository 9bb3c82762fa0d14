"""Weights that are not finite are never sealed: nothing resumes from them, and they become no model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from steps.errors import NumericError, Problem, StepError
from steps.verl.metrics import NAMES, read_all


def refuse_infinite_checkpoint(checkpoint: Path, roles: Iterable[str], step: int, asked: float | None) -> None:
    """Raise NumericError if a weight in a checkpoint is not finite, with the step and its learning rate.

    `asked` is the rate that was asked for; what verl has logged is preferred, as its schedule changes it. What cannot
    be opened as tensors is left to those who join the parts.
    """
    from steps.verl.shards import open_part, part_files

    bad: list[str] = []
    for file in (file for role in roles for file in part_files(checkpoint / role)):
        with suppress(StepError):
            bad += not_finite(open_part(file))
    if bad:
        logged = (one.finite.get(NAMES["learning_rate"]) for one in reversed(read_all(checkpoint.parent))
                  if one.step <= step)  # fmt: skip
        rate = next((value for value in logged if value is not None), asked)
        raise _refused("VERL-E0605", list(dict.fromkeys(bad)), step, rate)


def refuse_infinite(tensors: Mapping[str, Any], history: Mapping[str, Any]) -> None:
    """Raise NumericError if a weight is not finite in the type in which it is to be stored."""
    if bad := not_finite(tensors):
        rates = (point.get("learning_rate") for point in reversed(history.get("points", [])))
        raise _refused("VERL-E0601", bad, history["steps"], next((one for one in rates if one is not None), None))


def not_finite(tensors: Mapping[str, Any]) -> list[str]:
    """Return the names of tensors with a value that is not finite, as far as they are in this process."""
    found = {name: tensor.to_local() if hasattr(tensor, "to_local") else tensor for name, tensor in tensors.items()}
    return [name for name, tensor in found.items() if not tensor.isfinite().all()]


def _refused(code: str, bad: list[str], step: int, rate: float | None) -> NumericError:
    at = "" if rate is None else f" at learning rate {rate:.2e}"
    return NumericError(
        Problem(code, f"step {step}", f"{len(bad)} tensors with NaN or infinity, such as {bad[0]},{at}".rstrip(","),
                "finite weights", "lower actor_optim_lr, and resume from an older checkpoint")
    )  # fmt: skip
