"""The names, states and manifests of the checkpoints that the Trainer and verl save."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from steps.params.text_file import any_json
from steps.params.training import SAVED_AS
from steps.sealed import damage_of as damage_of  # these for the other files of this room
from steps.sealed import delete as delete
from steps.sealed import facts_of as facts_of
from steps.sealed import is_described as is_described
from steps.sealed import is_sealed as is_sealed
from steps.sealed import seal_folder

NAME = re.compile(rf"(?:{'|'.join(SAVED_AS)})(0|[1-9][0-9]*)")
STATE = "trainer_state.json"
BEST = "best_model_checkpoint"  # in the Trainer's state: the path of the best checkpoint until then


def step_of(name: str) -> int | None:
    """Return the step in the name of a checkpoint; None for a name that neither gives."""
    found = NAME.fullmatch(name)
    return int(found[1]) if found else None


def by_step(names: list[str]) -> list[str]:
    """Sort names of checkpoints by their steps, and leave out other names."""
    return sorted((name for name in names if NAME.fullmatch(name)), key=lambda name: step_of(name) or 0)


def names_in(folder: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, complete or not, by their steps."""
    if not folder.is_dir():
        return []
    return by_step([path.name for path in folder.iterdir() if path.is_dir()])


def named_alike(folder: Path) -> list[Path]:
    """Return whatever in a folder has a name that begins as a checkpoint's, in order."""
    return sorted(path for start in SAVED_AS for path in folder.glob(f"{start}*"))


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the same as paths."""
    return [folder / name for name in names_in(folder)]


def seal(
    checkpoint: Path, tuned: Path | None = None, by_time: bool = False, facts: Mapping[str, Any] | None = None
) -> None:
    """Write a checkpoint's manifest when all files are on disk; this completes its save.

    `tuned` is the path of the task's result, `by_time` whether the checkpoint was saved only because time had passed,
    `facts` what else is known of it, such as the number of processes that wrote it.
    """
    known = {**(facts or {}), **({"task": str(tuned)} if tuned else {}), **({"by_time": True} if by_time else {})}
    seal_folder(checkpoint, known)


def is_by_time(checkpoint: Path) -> bool:
    """Return whether a checkpoint was saved only because time had passed."""
    return bool(facts_of(checkpoint).get("by_time"))


def state_of(checkpoint: Path) -> dict[str, Any]:
    """Return the Trainer's state in a checkpoint; empty without one."""
    file = checkpoint / STATE
    return state_in(file.read_bytes() if file.is_file() else None)


def state_in(text: bytes | None) -> dict[str, Any]:
    """Return the Trainer's state that a file holds; empty without a readable one, or with values of other types."""
    try:
        state = any_json(text or b"{}")
    except ValueError:
        return {}
    if not isinstance(state, dict) or not isinstance(state.get(BEST), str | None):
        return {}
    return state if isinstance(state.get("global_step"), int | None) else {}


def best_in(state: Mapping[str, Any]) -> str:
    """Return the name of the best checkpoint that a state tells; empty without evaluations."""
    return Path(state.get(BEST) or "").name


def best_of(checkpoint: Path) -> str:
    """Return the name of the best checkpoint until this one; empty without evaluations."""
    return best_in(state_of(checkpoint))


def steps_done(checkpoint: Path) -> int:
    """Return after how many steps a checkpoint was saved, whatever the name of its folder is now."""
    step = step_of(checkpoint.name)
    return step if step is not None else int(state_of(checkpoint).get("global_step") or 0)


def linked(folder: Path, place: Path) -> Path:
    """Make a second folder with the same files at `place`, as hard links where the disk has them; return it."""
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(folder, place, copy_function=os.link)
    except shutil.Error:  # a volume without hard links
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
    return place


def tell_best(checkpoint: Path, best: Path) -> None:
    """Change the path of the best checkpoint in the Trainer's state: the Trainer ignores one that is not there."""
    state = {**state_of(checkpoint), BEST: str(best)}
    file = checkpoint / STATE
    with suppress(FileNotFoundError):
        file.unlink()  # it may be a hard link
    file.write_text(json.dumps(state, indent=2, sort_keys=True) + "\n", encoding="utf-8")
