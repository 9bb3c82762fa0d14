"""Check for installed packages by their metadata, because imports of torch are disabled in the plan (`running.py`)."""

from importlib.metadata import PackageNotFoundError, version


def missing_here(package: str) -> bool:
    """Whether a package is missing although torch is installed; the training image has all, this machine may not."""
    return _is_installed("torch") and not _is_installed(package)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
