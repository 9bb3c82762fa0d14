"""The checkpoints that verl writes: which are whole, from which a training goes on, and which are kept.

    <folder>/global_step_20/actor/model_world_size_8_rank_0.pt …   also optim_… and extra_state_…, a file per GPU
    <folder>/global_step_20/critic/…                               with a critic
    <folder>/global_step_20/data.pt                                the place in the data
    <folder>/latest_checkpointed_iteration.txt                     written last: 20

verl 0.9.1 resumes from the step in that file without a look at the files, and a kill can leave the file empty. So this
room seals each checkpoint with a manifest when it is whole, and writes the file before verl starts.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.artifacts import write_durably
from steps.errors import NumericError, Problem, UserError, some_of
from steps.params.text_file import any_json
from steps.sealed import damage_of, delete, described, facts_of, is_sealed, seal_folder
from steps.tracking import flat

log = logging.getLogger("finetune")

NAME = re.compile(r"global_step_([1-9][0-9]*)")
LATEST = "latest_checkpointed_iteration.txt"
TRAINING = "verl_training.json"  # what the checkpoints of a folder are of
ACTOR, CRITIC, DATA = "actor", "critic", "data.pt"
SHARDS = ("model", "optim", "extra_state")
WORLD = "fsdp_config.json"
RATE = "actor_optim_lr"
DIFFERENCES = 5  # that an error lists


@dataclass(frozen=True)
class VerlCheckpoints:
    """The checkpoints of one training with verl."""

    path: Path
    identity: dict[str, Any]
    """Everything that affects the result: settings and input digests."""
    processes: int
    """GPUs of all nodes: verl reads a checkpoint only with as many as wrote it."""
    critic: bool = False
    keep: int = -1
    """How many to keep; below 1: all."""

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, whole or not."""
        return steps_in(self.path)

    def at(self, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return path_of(self.path, step)

    def begin(self, wanted: str = "auto") -> Path | None:
        """Prepare the folder for verl, which then goes on from the checkpoint that is returned; None: from step 0.

        `wanted` is resume_from_checkpoint: false, true, auto, or the folder of a checkpoint. What is newer than the
        returned one is deleted, as the training writes it again. Raises UserError for checkpoints of another training
        or another number of GPUs, and if all are damaged.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        if wanted == "false":
            chosen = None
        elif wanted in ("true", "auto"):
            chosen = self._newest()
        else:
            chosen = self._named(Path(wanted))
        if chosen is not None:
            self._refuse_other_processes(chosen)
        step = (step_of(chosen) or 0) if chosen else 0
        for newer in self.steps():
            if newer > step:
                delete(self.at(newer))
        write_durably(self.path / TRAINING, json.dumps(self.identity, indent=1, sort_keys=True))
        if chosen is None:
            (self.path / LATEST).unlink(missing_ok=True)
        else:
            write_durably(self.path / LATEST, str(step))
        return chosen

    def seal_whole(self) -> list[int]:
        """Seal the checkpoints that verl has completed since the last call, and delete those beyond `keep`.

        What is older than a sealed one stays as it is: another thread may be deleting it (`uploads.py` of finetune).
        Raises NumericError for one with weights that are not finite; those before it are sealed.
        """
        from steps.verl.finite import refuse_infinite_checkpoint

        latest, sealed = self.latest(), [step for step in self.steps() if is_sealed(self.at(step))]
        new = [step for step in self.steps() if max(sealed, default=0) < step <= latest]
        whole = [step for step in new if not self.missing_in(self.at(step))]
        for step in whole:
            refuse_infinite_checkpoint(self.at(step), self._roles, step, self._rate())
            facts = {"step": step, "processes": self.processes, "critic": self.critic}
            seal_folder(self.at(step), facts, self.identity)
        if whole:
            self._prune()
        return whole

    def newest_sealed(self) -> Path | None:
        """Return the newest checkpoint with a manifest."""
        return next((self.at(step) for step in reversed(self.steps()) if is_sealed(self.at(step))), None)

    def missing_in(self, checkpoint: Path) -> str:
        """Return what a checkpoint lacks by verl's layout; empty if it is whole."""
        absent = [name for name in self._expected(checkpoint) if not _is_complete(checkpoint / name)]
        return f"{some_of(absent, 3)} missing or cut off" if absent else ""

    @property
    def _roles(self) -> tuple[str, ...]:
        return (ACTOR, CRITIC) if self.critic else (ACTOR,)

    def _rate(self) -> float | None:
        """Return the learning rate that was asked for."""
        named = (value for key, value in flat(self.identity).items() if key.rsplit(".", 1)[-1] == RATE)
        return next((float(one) for one in named if isinstance(one, int | float)), None)

    def _expected(self, checkpoint: Path) -> Iterator[str]:
        yield DATA
        for role in self._roles:
            yield f"{role}/{WORLD}"
            count = world_size(checkpoint / role)
            for kind in SHARDS:
                yield from (f"{role}/{shard_name(kind, count, rank)}" for rank in range(count))

    def latest(self) -> int:
        """Return the step in verl's file; 0 if there is none, or a kill left it empty."""
        try:
            return int((self.path / LATEST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0

    def _newest(self) -> Path | None:
        """Return the newest whole checkpoint; what is not whole is told and passed over."""
        self._warn_of_other_names()
        self._refuse_another_training()
        infinite = self._sealed_late()
        damaged = []
        for step in reversed(self.steps()):
            checkpoint = self.at(step)
            damage = damage_of(checkpoint) if is_sealed(checkpoint) else infinite or self._unfinished(checkpoint)
            if not damage:
                log.info("resuming from %s", checkpoint)
                return checkpoint
            log.warning("WARNING skipping %s: %s", checkpoint.name, damage)
            if is_sealed(checkpoint):
                damaged.append(f"{checkpoint.name} ({damage})")
        if damaged:
            raise UserError(
                Problem("CHECKPOINT-E0101", str(self.path), "; ".join(damaged), "at least one valid checkpoint",
                        "set resume_from_checkpoint=false to start again at step 0")
            )  # fmt: skip
        log.info("nothing to resume: starting at step 0")
        return None

    def _sealed_late(self) -> str:
        """Seal what a process that was killed could not; return why one cannot be, if its weights are not finite."""
        try:
            self.seal_whole()
        except NumericError as error:
            return f"{error.problems[0].where}: {error.problems[0].found}"
        return ""

    def _unfinished(self, checkpoint: Path) -> str:
        return self.missing_in(checkpoint) or f"{LATEST} does not name it: its save was interrupted"

    def _named(self, given: Path) -> Path:
        """Return a checkpoint that is named by its path, in this folder: as links if it is another's."""
        step = step_of(given)
        if step is None or not given.is_dir():
            raise UserError(
                Problem("VERL-E0101", "resume_from_checkpoint", str(given), "a folder global_step_<number> of verl",
                        "name one, or set true for the newest")
            )  # fmt: skip
        damage = damage_of(given)
        if damage:
            # verl unpickles what it resumes, which can run code: only what this project sealed is unchanged.
            raise UserError(
                Problem("VERL-E0102", "resume_from_checkpoint", f"{given}: {damage}", "a checkpoint with its manifest",
                        "name one that this pipeline saved", why="verl opens pickles, which can run code")
            )  # fmt: skip
        manifest = described(given)
        self._refuse_differences(given, manifest.lineage if manifest else {})
        if given.resolve() != self.at(step).resolve():
            shutil.rmtree(self.at(step), ignore_errors=True)
            _link(given, self.at(step))
        return self.at(step)

    def _refuse_another_training(self) -> None:
        """Raise UserError if the checkpoints in this folder are of other settings or data."""
        for step in reversed(self.steps()):
            if manifest := described(self.at(step)):
                self._refuse_differences(self.at(step), manifest.lineage)
                return
        if self.steps() and (self.path / TRAINING).is_file():
            for identity in identity_in((self.path / TRAINING).read_bytes()):
                self._refuse_differences(self.path, identity)

    def _refuse_differences(self, where: Path, other: dict[str, Any]) -> None:
        mine, others = flat(self.identity), flat(other)
        changed = sorted(key for key in mine.keys() | others.keys() if mine.get(key) != others.get(key))
        if changed:
            told = ", ".join(
                f"{key.rsplit('.', 1)[-1]} was {others.get(key)}, is {mine.get(key)}" for key in changed[:DIFFERENCES]
            )
            raise UserError(
                Problem("VERL-E0103", "resume_from_checkpoint", f"a checkpoint of another training ({where}): {told}",
                        "the same settings and data", "restore them, or set resume_from_checkpoint=false to start "
                        "again at step 0", count=len(changed))
            )  # fmt: skip

    def _refuse_other_processes(self, checkpoint: Path) -> None:
        wrote = world_size(checkpoint / ACTOR) or facts_of(checkpoint).get("processes")
        if wrote != self.processes:
            raise UserError(
                Problem("VERL-E0104", str(checkpoint), f"a checkpoint of {wrote} GPUs", f"one of {self.processes}",
                        "train with the GPUs that wrote it, or set resume_from_checkpoint=false to start again at "
                        "step 0", why="verl stores a part for each GPU, and reads only as many")
            )  # fmt: skip

    def _warn_of_other_names(self) -> None:
        """Name what somebody copied or renamed: it is never resumed by itself."""
        for path in sorted(self.path.glob("global_step_*")):
            if not NAME.fullmatch(path.name) or not path.is_dir():
                log.warning("WARNING skipping %s: not the name or folder of a checkpoint", path.name)

    def _prune(self) -> None:
        sealed = [step for step in self.steps() if is_sealed(self.at(step))]
        for step in sealed[: -self.keep] if self.keep > 0 else []:
            delete(self.at(step))


def identity_in(text: bytes) -> Iterator[dict[str, Any]]:
    """Give what the file of a training's settings holds, if it is whole."""
    with suppress(ValueError):
        if isinstance(found := any_json(text), dict):
            yield found


def steps_in(folder: Path) -> list[int]:
    """Return the steps of all checkpoints in a folder, in order; other names are passed over."""
    if not folder.is_dir():
        return []
    found = (step_of(path) for path in folder.iterdir() if path.is_dir())
    return sorted(step for step in found if step is not None)


def path_of(folder: Path, step: int) -> Path:
    """Return the folder of a checkpoint."""
    return folder / f"global_step_{step}"


def step_of(checkpoint: Path) -> int | None:
    """Return the step in the name of a checkpoint; None for a name that verl does not give."""
    found = NAME.fullmatch(checkpoint.name)
    return int(found[1]) if found else None


def shard_name(kind: str, count: int, rank: int) -> str:
    """Return the name of the file that one of `count` GPUs writes; `kind` is one of SHARDS."""
    return f"{kind}_world_size_{count}_rank_{rank}.pt"


def world_size(folder: Path) -> int:
    """Return how many GPUs wrote the folder of actor or critic; 0 if it does not say so."""
    try:
        told = json.loads((folder / WORLD).read_bytes())
        return max(0, int(told["world_size"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _is_complete(file: Path) -> bool:
    """Return whether a file was written to its end: torch.save writes zip archives, whose directory comes last."""
    if file.suffix == ".pt":
        return file.is_file() and zipfile.is_zipfile(file)
    return file.is_file() and file.stat().st_size > 0


def _link(folder: Path, place: Path) -> None:
    try:
        shutil.copytree(folder, place, copy_function=os.link)
    except shutil.Error:  # a volume without hard links
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
