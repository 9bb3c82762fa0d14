"""Installed packages. The plan runs without torch even if it is installed (`running.py`)."""

from importlib.metadata import PackageNotFoundError, version


def missing_here(package: str) -> bool:
    """Return whether a package is missing although torch is installed, so that training here would fail.

    Without torch, training runs in another image, which has all packages.
    """
    return _is_installed("torch") and not _is_installed(package)


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
