"""Check for packages that only some trainings need."""

from __future__ import annotations

from importlib.util import find_spec

from steps.errors import Problem, UserError
from steps.params.packages import packages_of
from steps.params.settings import FinetuneSettings


def refuse_missing(settings: FinetuneSettings) -> None:
    """Raise UserError if a needed package is not installed, before the model is loaded."""
    needed = packages_of(settings.training, settings.quantisation, bool(settings.deepspeed))
    problems = [
        Problem("TRAIN-E0203", where, f"{value}, but the package {package} is missing", f"{package} in the environment "
                "of finetune", f"install it (pip install {package}), or {otherwise}")
        for where, value, package, otherwise in needed
        if find_spec(package.replace("-", "_")) is None
    ]  # fmt: skip
    if problems:
        raise UserError(problems)
