"""Packages that only some trainings need."""

from __future__ import annotations

from importlib.util import find_spec

from steps.errors import Problem, UserError
from steps.params.settings import FinetuneSettings
from steps.params.training import OPTIMIZER_PACKAGES


def refuse_missing(settings: FinetuneSettings) -> None:
    """Raise UserError when the optimizer's package is not installed: before the model is loaded, not after."""
    optimizer = settings.training.optim
    package = OPTIMIZER_PACKAGES.get(optimizer)
    if package and find_spec(package.replace("-", "_")) is None:
        raise UserError(
            Problem("TRAIN-E0203", "optim", f"{optimizer}, but the package {package} is missing", f"{package} where "
                    "finetune runs", f"install it (pip install {package}), or set optim=adamw_torch")
        )  # fmt: skip
