"""What a local folder may not hold: files without an end, links that lead out of it, and names that are no text."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from steps.errors import Problem, SecurityRefusal, UserError, shown


def refuse_odd_files(parameter: str, folder: Path, most: int) -> None:
    """Raise UserError for what would be read without an end: pipes, devices, sockets, and links to them.

    Also for a folder with more than `most` files, which are more than anybody's data or model has, such as `/`.
    """
    seen = 0
    for inside, _, files in os.walk(folder):
        seen += len(files)
        for path in (os.path.join(inside, name) for name in files):
            if any("\ud800" <= letter <= "\udfff" for letter in path):
                raise UserError(
                    Problem("URI-E0211", parameter, f"a file called {shown(os.path.basename(path))}",
                            "names in UTF-8", "rename the file")
                )  # fmt: skip
            if os.path.exists(path) and not os.path.isfile(path):
                raise UserError(
                    Problem("URI-E0210", parameter, f"a pipe, a device or a socket at {path!r}", "files",
                            "remove it from the folder", why="it would be read without an end")
                )  # fmt: skip
        if seen > most:
            raise UserError(
                Problem("URI-E0209", parameter, f"more than {most:,} files below {str(folder)!r}",
                        "a folder with the files of one model or data set", "name that folder")
            )  # fmt: skip


def refuse_links_out(parameter: str, folder: Path, names: Iterable[str], code: str) -> None:
    """Raise SecurityRefusal for a link in a folder that leads out of it.

    A Hub cache links its snapshots to blobs two levels up; no other link may leave the folder.
    """
    root = os.path.realpath(folder)
    above = os.path.dirname(root)
    allowed = os.path.dirname(above) if os.path.basename(above) == "snapshots" else root
    for name in names:
        if not os.path.realpath(folder / name).startswith(allowed.rstrip(os.sep) + os.sep):
            raise SecurityRefusal(
                Problem(code, parameter, f"{name}, a link that leaves the folder {str(folder)!r}",
                        "files in the folder", "copy the file into the folder")
            )  # fmt: skip
