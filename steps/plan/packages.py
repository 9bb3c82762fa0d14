"""What is installed beside the plan, which runs as if torch were not (`running.py`)."""

from importlib.metadata import PackageNotFoundError, version


def missing_here(package: str) -> bool:
    """Whether a package is missing where torch is there: the training's image has everything, this machine may not."""
    return _is_installed("torch") and not _is_installed(package)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
