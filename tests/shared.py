"""Things that a test session makes once, whichever of its workers needs them first; tests only read them."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from unchanged import changes, snapshot


class SharedFolders:
    """Folders below the session's own, one for every name, made by the first test that asks."""

    def __init__(self, root: Path):
        self.root = root
        root.mkdir(exist_ok=True)

    def made(self, name: str, make: Callable[[Path], object]) -> Path:
        """Give the folder `name`; `make` fills it when no worker has done so before.

        `make` gets the path of a folder that does not exist yet. When it raises, nothing is kept.
        """
        folder = self.root / name
        with open(self.root / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                draft = self.root / f"{name}.part"
                shutil.rmtree(draft, ignore_errors=True)
                make(draft)
                (self.root / f"{name}.json").write_text(json.dumps(snapshot(draft)))
                os.rename(draft, folder)  # so that a folder with this name is a whole one
        return folder

    def changes(self) -> list[str]:
        """List what is no longer as it was made."""
        told = []
        for noted in self.root.glob("*.json"):
            if (folder := noted.with_suffix("")).is_dir():
                made = {name: tuple(about) for name, about in json.loads(noted.read_text()).items()}
                told += [f"{folder.name}/{change}" for change in changes(made, snapshot(folder))]
        return told


def shared_folders(factory: pytest.TempPathFactory) -> SharedFolders:
    """Give the folders that all workers of this session share."""
    worker = "PYTEST_XDIST_WORKER" in os.environ
    base = factory.getbasetemp()
    return SharedFolders((base.parent if worker else base) / "shared")
