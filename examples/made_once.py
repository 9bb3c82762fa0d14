"""Create the files of an example: all of them or none, and only if something is missing or outdated."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from steps.artifacts import describe_files, sha256_of

FOLDERS = ("base", "data")
STAMP = "data/made.json"  # data/ is moved last, so the stamp exists only if everything exists


def make_once(folder: Path, sources: list[Path], make: Callable[[Path], None], more: tuple[str, ...] = ()) -> bool:
    """Call `make` with a scratch folder and move base/ and data/ from there into `folder`; False if they are current.

    `more` names other folders that `make` fills. `sources` are the files whose change makes the result outdated.
    Two processes may call this at the same time.
    """
    wanted = {file.name: sha256_of(file) for file in sources}
    folders = (*more, *FOLDERS)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if _is_current(folder, wanted, folders):
            return False
        scratch = folder / "data.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        for name in folders:
            (scratch / name).mkdir(parents=True)
        make(scratch)
        (scratch / STAMP).write_text(json.dumps({"sources": wanted, "files": _digests(scratch, folders)}, indent=1))
        for name in folders:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.rename(scratch / name, folder / name)
        scratch.rmdir()
        return True
    finally:
        os.close(handle)


def _is_current(folder: Path, wanted: dict[str, str], folders: tuple[str, ...]) -> bool:
    stamp = folder / STAMP
    if not stamp.is_file():
        return False
    made = json.loads(stamp.read_text())
    return made["sources"] == wanted and made["files"] == _digests(folder, folders)


def _digests(folder: Path, folders: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in folders:
        described = describe_files(folder / name) if (folder / name).is_dir() else {}
        found.update({f"{name}/{file}": entry["sha256"] for file, entry in described.items()})
    found.pop(STAMP, None)
    return found
