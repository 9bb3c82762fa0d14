"""Places that a user names for results: checked before the work starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

from steps.errors import Problem, UserError
from steps.params.secrets import without_credentials
from steps.running import known


def refuse_unwritable(name: str, path: Path, folder: bool = True) -> None:
    """Raise UserError if a folder (or a file) cannot be written at `path`, OutOfResources if its disk is full.

    `name` is the flag that names the place. Nothing is left behind.
    """
    try:
        parent = _nearest_folder(name, path, folder)
        with tempfile.TemporaryFile(dir=parent) as probe:
            probe.write(b"0")
            probe.flush()
    except OSError as error:
        found = known(error, name)
        if found and not isinstance(found, UserError):
            raise found from error
        raise _refused(name, path, f"{path.parent if not folder else path}: {error.strerror or error}") from None


def refuse_in_uri(name: str, path: Path) -> None:
    """Raise UserError for a folder whose path would mean another one in an SQLite database's URI, or holds a secret."""
    if bad := sorted({"?", "%"} & set(str(path.absolute()))):
        raise UserError(
            Problem("OUTPUT-E0102", name, f"{path.absolute()} with {bad[0]}", "a path without ? and %",
                    "name another folder", why="the MLflow store of local runs is there, under a URI")
        )  # fmt: skip
    place = str(path.absolute())
    if (told := without_credentials(place)) != place:
        raise UserError(
            Problem("OUTPUT-E0103", name, f"{told}, a path with a secret", "a path without one", "name another folder",
                    why="results and messages name it")
        )  # fmt: skip


def _nearest_folder(name: str, path: Path, folder: bool) -> Path:
    """Return the folder at `path`, or the nearest one above it that exists."""
    if not folder and path.is_dir():
        raise _refused(name, path, f"the folder {path}")
    for place in (path, *path.parents) if folder else path.parents:
        if place.is_dir():
            return place
        if place.is_symlink() and not place.exists():
            raise _refused(name, path, f"{place}, a link to nothing")
        if place.exists():
            raise _refused(name, path, f"{place}, which is a file")
    return Path()


def _refused(name: str, path: Path, found: str) -> UserError:
    text = str(found)
    return UserError(
        Problem("OUTPUT-E0101", name, text if len(text) <= 300 else f"{text[:200]}…", "a place that can be written",
                "name another place, or give this user access")
    )  # fmt: skip
