"""Packages that only some trainings need."""

from __future__ import annotations

from importlib.util import find_spec

from steps.errors import Problem, UserError
from steps.params.settings import FinetuneSettings
from steps.params.training import OPTIMIZER_PACKAGES


def refuse_missing(settings: FinetuneSettings) -> None:
    """Raise UserError when DeepSpeed or the optimizer's package is needed and not installed: before any loading."""
    if settings.deepspeed and find_spec("deepspeed") is None:
        raise UserError(
            Problem("TRAIN-E0203", "apply_deepspeed", "true, but the package deepspeed is missing", "deepspeed where "
                    "finetune runs", "install it (pip install deepspeed), or set apply_deepspeed=false")
        )  # fmt: skip
    optimizer = settings.training.optim
    package = OPTIMIZER_PACKAGES.get(optimizer)
    if package and find_spec(package.replace("-", "_")) is None:
        raise UserError(
            Problem("TRAIN-E0203", "optim", f"{optimizer}, but the package {package} is missing", f"{package} where "
                    "finetune runs", f"install it (pip install {package}), or set optim=adamw_torch")
        )  # fmt: skip
