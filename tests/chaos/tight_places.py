"""Small disks and little memory, around any function or command that a row is given."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from chaos_row import Row

from steps.artifacts import is_whole
from steps.errors import OutOfResources
from steps.import_model.step import import_model
from steps.params.model_source import SOURCE_PARAMETER
from steps.params.settings import ImportSettings, Resolved
from steps.sources import storage

MIB = 1024 * 1024
LARGE = 5_000_000_000  # bytes of rows
MEMORY = 512 * MIB
CHAT = '{"messages": [{"role": "user", "content": "%d %d"}, {"role": "assistant", "content": "%s"}]}\n'


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


def larger_than_memory(tight: Tight, number: int, draw: random.Random) -> str:
    """Rows of ten times the memory are checked, by as many processes as there are processors."""
    file = tight.folder / "large.jsonl"
    filler = "".join(draw.choices("abcdefghij ", k=1200))
    with open(file, "w") as rows:
        while rows.tell() < LARGE:
            at = rows.tell()
            rows.writelines(CHAT % (at, place, filler) for place in range(10_000))
    checked = [sys.executable, "-m", "steps", "check-data", "--task", "chat_completion", "--train", str(file)]
    with open(tight.folder / "log.txt", "wb") as log:
        process, most = subprocess.Popen(checked, stdout=log, stderr=log), 0
        while process.poll() is None:
            most = max(most, memory_of(process.pid))
            time.sleep(0.1)
    size, told = file.stat().st_size, (tight.folder / "log.txt").read_text()
    file.unlink()
    print(f"{size:,} bytes were checked with {most / MIB:.0f} MiB")
    if process.returncode:
        return f"code {process.returncode}: {told[-500:]}"
    return "" if most <= MEMORY else f"{most / MIB:.0f} MiB for {size:,} bytes"


def memory_of(number: int) -> int:
    """Return the memory of a process and its children in bytes, what they share counted once; 0 if one has ended."""
    with suppress(psutil.Error):
        process = psutil.Process(number)
        return sum(one.memory_full_info().pss for one in (process, *process.children(recursive=True)))
    return 0


ROWS = [
    Row(24, "an input of 5 GB", larger_than_memory, "tight", long=1),
    Row(25, "a disk is full: importing a model", on_a_small_disk(bring, 16 * 1024, 2 * MIB), "tight", short=3, long=40),
    Row(23, "little memory: importing a model", with_little_memory(bring_as_process, 600 * MIB, 3000 * MIB), "tight",
        short=2, long=10),
]  # fmt: skip
