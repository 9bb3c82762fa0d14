"""The folder of a sweep on this machine: everything that is known of it, so that it can be opened again.

description.json   what was asked for                  plan/          the plan of all trials
models/model-0     imported models, by place           data/data-0    prepared data, by place
tokenizers/model-0 their tokenizers
trials/0003/       asked.json, settings.json, planned.json, tuned/, measured/, log.txt, curve.jsonl, failed.json
best/0003/         the best trial: merged, evaluated, registered; with a larger budget there may be several
shared.json        settings of models and data by place, and the id of the curves of trials
sweep.json         the facts of all trials             report.html    the same as a page
driver.lock        held, with the number of its process, by the driver while it runs
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.sweeping.described import Described, is_name
from steps.errors import Problem, UserError, nearest, shown
from steps.params.sweep import DATA, MODEL
from steps.running import MANIFEST

SWEEPS = "sweeps"  # below the root of local runs
DESCRIPTION, FACTS, REPORT = "description.json", "sweep.json", "report.html"
BEGUN = "begun.json"  # where the sweep was begun
LOCK, LOG = "driver.lock", "log.txt"
LOOKING = 1.0  # seconds
FIXES = {
    DESCRIPTION: "delete the folder of the sweep, and start it anew",
    "asked.json": "delete the folder of this trial, and start the sweep again",
    "trial.json": "delete its folder, and start the sweep again: the trial is measured again",
}


@dataclass(frozen=True)
class TrialFolder:
    """The folder of one trial."""

    path: Path
    number: int

    @property
    def asked(self) -> dict[str, Any]:
        """The parameters that differ between trials."""
        return dict(read_json(self.path / "asked.json"))

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings of its task; None before it was planned."""
        return read_json(self.path / "settings.json") if (self.path / "settings.json").is_file() else None

    @property
    def planned(self) -> dict[str, Any]:
        """Its line of the plan."""
        return dict(read_json(self.path / "planned.json"))

    @property
    def result(self) -> dict[str, Any] | None:
        """Its trial.json, or what the driver wrote of a trial whose process left none; None before it has ended."""
        for file in (self.path / "measured" / "trial.json", self.path / "failed.json"):
            whole = file.name == "failed.json" or (file.parent / MANIFEST).is_file()
            if whole and file.is_file():
                return dict(read_json(file))
        return None

    def write(self, name: str, value: Any) -> None:
        """Write a file of JSON, whole or not at all."""
        write_json(self.path / name, value)


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the sweep."""
        return self.path.name

    @property
    def root(self) -> Path:
        """The root of local runs."""
        return self.path.parent.parent

    @property
    def described(self) -> Described:
        """What was asked for."""
        return Described.from_json(read_json(self.path / DESCRIPTION))

    @property
    def working_folder(self) -> Path:
        """The folder in which the sweep was begun, to which its relative paths belong; this one if that is gone."""
        file = self.path / BEGUN
        begun = Path(read_json(file)["folder"]) if file.is_file() else Path()
        return begun if begun.is_dir() else Path()

    @property
    def facts(self) -> dict[str, Any] | None:
        """sweep.json; None before the first trial starts, and if it is damaged: the driver writes it again."""
        try:
            return read_json(self.path / FACTS) if (self.path / FACTS).is_file() else None
        except UserError:
            return None

    def trials(self) -> list[TrialFolder]:
        """Return the trials that were asked for, in their order."""
        places = sorted((self.path / "trials").glob("[0-9]*/asked.json"))
        return [TrialFolder(place.parent, int(place.parent.name)) for place in places]

    def new_trial(self, number: int, asked: dict[str, Any]) -> TrialFolder:
        """Create the folder of a trial."""
        trial = TrialFolder(self.path / "trials" / f"{number:04}", number)
        trial.path.mkdir(parents=True, exist_ok=True)
        trial.write("asked.json", asked)
        return trial

    def shared(self, kind: str, place: int) -> Path:
        """Return the place of a model, its tokenizer (both model-0 …) or prepared data (data-0 …)."""
        return self.path / kind / (DATA if kind == "data" else MODEL).format(place)

    @contextlib.contextmanager
    def driven(self) -> Iterator[None]:
        """Hold the sweep for this process. Raises UserError if another process runs it."""
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / LOCK, "a+") as held:
            limit = time.monotonic() + LOOKING
            while True:
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:  # by another driver, or for a moment by one who looks whether there is one
                    if time.monotonic() > limit:
                        raise _running(self.name, self.driver()) from None
                    time.sleep(0.02)
            held.truncate(0)
            held.write(str(os.getpid()))
            held.flush()
            yield

    def driver(self) -> int | None:
        """Return the process that runs this sweep; None if none does."""
        try:
            with open(self.path / LOCK) as held:
                fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return None
        except BlockingIOError:
            with contextlib.suppress(OSError, ValueError):
                return int((self.path / LOCK).read_text())
            return 0
        return None


def sweep_folder(root: Path, name: str) -> SweepFolder:
    """Return the folder of a sweep of this name."""
    return SweepFolder(root.absolute() / SWEEPS / name)


def existing(root: Path, name: str) -> SweepFolder:
    """Return the folder of a sweep that was begun. Raises UserError with the nearest name for an unknown one."""
    folder = sweep_folder(root, name if is_name(name) else "_")
    if not is_name(name) or not (folder.path / DESCRIPTION).is_file():
        known = [place.parent.name for place in folder.path.parent.glob(f"*/{DESCRIPTION}")]
        last = str(name).rstrip("/").rpartition("/")[2]
        fix = nearest(last, known) or (f"one of {', '.join(sorted(known)[:10])}" if known else "start one first")
        raise UserError(Problem("SWEEP-E0303", "name", shown(name), f"a sweep below {folder.path.parent}", fix))
    return folder


def _running(name: str, process: int | None) -> UserError:
    return UserError(
        Problem("SWEEP-E0302", name, f"a sweep that process {process} runs", "one that is not running",
                "wait for it, or stop it first")
    )  # fmt: skip


def write_json(file: Path, value: Any) -> None:
    """Write JSON to a file that is whole or absent, also after a kill."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(draft, file)
    except OSError as error:
        error.filename = error.filename or str(file)  # a write names none, and so tells no volume
        with contextlib.suppress(OSError):
            draft.unlink()
        raise


def read_json(file: Path) -> Any:
    """Read a JSON object. Raises UserError for a file that is damaged."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        value = error
    if isinstance(value, dict):
        return value
    fix = FIXES.get(file.name, "delete it, and start the sweep again")
    why = "the disk was full, or another program has written it"
    raise UserError(Problem("SWEEP-E0307", str(file), "a damaged file", "a JSON object", fix, why=why))
