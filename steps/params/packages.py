"""Optional packages that some parameters need."""

from collections.abc import Iterator

from steps.params.quantisation import PACKAGE, QuantisationParams
from steps.params.training import OPTIMIZER_PACKAGES, TrainingParams


def packages_of(
    training: TrainingParams, stored: QuantisationParams, deepspeed: bool
) -> Iterator[tuple[str, str, str, str]]:
    """Yield (parameter, its value, the package it needs, what to do without it) for each optional package."""
    if package := OPTIMIZER_PACKAGES.get(training.optim):
        yield "optim", training.optim, package, "set optim=adamw_torch"
    if stored.bits:
        name = f"load_in_{stored.bits}bit"
        yield name, "true", PACKAGE, f"leave {name} out"
    if deepspeed:
        yield "apply_deepspeed", "true", "deepspeed", "set apply_deepspeed=false"
