"""One temporary folder for everything that a local run needs only while it runs; nothing of it stays behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "finetune-"
IN_USE = "in-use"  # a file that its run holds locked


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create the folder, and delete it at the end; also delete those of runs that were killed."""
    remove_abandoned(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    # Locked before it has its name: a folder with this file whose lock is free has been abandoned.
    with open(folder / f".{IN_USE}", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        os.rename(folder / f".{IN_USE}", folder / IN_USE)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(place: Path) -> None:
    """Delete the folders of runs that ended without deleting them, because they were killed."""
    for file in place.glob(f"{PREFIX}*/{IN_USE}"):
        with contextlib.suppress(OSError), open(file, "r+") as held:  # another user's, or deleted in the meantime
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(file.parent, ignore_errors=True)
