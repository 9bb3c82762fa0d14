"""Small disks and little memory, around any function or command that a row is given."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos_row import Row

from steps.artifacts import is_whole
from steps.errors import OutOfResources
from steps.import_model.step import import_model
from steps.params.model_source import SOURCE_PARAMETER
from steps.params.settings import ImportSettings, Resolved
from steps.sources import storage

MIB = 1024 * 1024


@dataclass(frozen=True)
class Tight:
    """A model to work with, and a folder for the trials."""

    model: Path
    folder: Path

    @property
    def settings(self) -> ImportSettings:
        digest = storage.digest_of(SOURCE_PARAMETER["pytorch"], str(self.model))
        return ImportSettings(kind="pytorch", source=Resolved(uri=str(self.model), digest=digest))


Trial = Callable[[Tight, int, random.Random], str]


def on_a_small_disk(work: Callable[[Tight, Path], object], least: int, most: int) -> Trial:
    """Make a trial of `work`, which writes below a folder: on a disk of some bytes between `least` and `most`.

    It may succeed, or end with OutOfResources and leave nothing but whole artifacts.
    """

    def trial(tight: Tight, number: int, draw: random.Random) -> str:
        size, folder = draw.randint(least, most), tight.folder / f"disk-{number}"
        folder.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)])
        if done.returncode:
            return "only root may mount a small disk"
        try:
            work(tight, folder)
        except OutOfResources:
            left = [str(path) for path in folder.iterdir() if not is_whole(path)]
            return f"{left} was left on a disk of {size:,} bytes" if left else ""
        except Exception as error:
            return f"another error on a disk of {size:,} bytes: {error!r}"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return ""

    return trial


def with_little_memory(command: Callable[[Tight, Path], list[str]], least: int, most: int) -> Trial:
    """Make a trial of a command that writes below a folder: with an address space between `least` and `most`.

    It may succeed, or end with the code of too little memory; a Python that could not begin is passed over.
    """

    def trial(tight: Tight, number: int, draw: random.Random) -> str:
        size, folder = draw.randint(least, most), tight.folder / f"memory-{number}"
        folder.mkdir()
        limited = ["sh", "-c", f'ulimit -v {size // 1024}; exec "$@"', "sh", *command(tight, folder)]
        done = subprocess.run(limited, capture_output=True, text=True, env=dict(os.environ))
        if done.returncode in (0, 5):
            return ""
        return f"code {done.returncode} with {size:,} bytes: {done.stderr[-500:]}"

    return trial


def bring(tight: Tight, folder: Path) -> None:
    """Import the model."""
    import_model(tight.settings, folder / "model", folder / "tokenizer")


def bring_as_process(tight: Tight, folder: Path) -> list[str]:
    """Return the command that imports the model."""
    settings = json.dumps(tight.settings.model_dump(mode="json"))
    return [sys.executable, "-m", "steps", "import-model", "--settings", settings, "--model", str(folder / "model"),
            "--tokenizer", str(folder / "tokenizer")]  # fmt: skip


ROWS = [
    Row(25, "a disk is full: importing a model", on_a_small_disk(bring, 16 * 1024, 2 * MIB), "tight", short=3, long=40),
    Row(23, "little memory: importing a model", with_little_memory(bring_as_process, 600 * MIB, 3000 * MIB), "tight",
        short=2, long=10),
]  # fmt: skip
