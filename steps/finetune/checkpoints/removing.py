"""Which checkpoints are deleted, while a training goes on and at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from steps.artifacts import size_of
from steps.errors import OutOfResources, Problem
from steps.exhausted import exhausted, is_out_of_space
from steps.finetune.checkpoints.folder import CheckpointFolder
from steps.finetune.checkpoints.sealing import checkpoints_in, delete, is_by_time, is_sealed
from steps.params.training import CheckpointParams
from steps.running import LOCAL_ROOT
from steps.volumes import told_of


def drop_passing(folder: Path) -> None:
    """Delete the checkpoints by time that are older than the newest checkpoint, and those whose save did not end."""
    for checkpoint in checkpoints_in(folder)[:-1]:
        if is_by_time(checkpoint) or not is_sealed(checkpoint):
            delete(checkpoint)


def drop_broken(folder: Path, error: Exception) -> OutOfResources | None:
    """Delete the checkpoint whose save ended at a full disk; return its error, or None if the training met another one.

    Those before it are kept: the training goes on from the newest of them.
    """
    every = checkpoints_in(folder)
    broken = [one for one in every if not is_sealed(one)]
    if not broken or not is_out_of_space(error) or not (full := exhausted(error, str(broken[-1]), folder)):
        return None
    whole = [one for one in every if is_sealed(one)]
    wrote = size_of(broken[-1])
    need = f"{told_of(size_of(whole[-1]))} for each checkpoint" if whole else f"more than {told_of(wrote)} for each one"
    for one in broken:
        delete(one)
    found = f"{full.problems[0].found}, after {told_of(wrote)} were written"
    return OutOfResources(
        Problem("CHECKPOINT-E0108", str(broken[-1]), found, need,
                f"{full.problems[0].fix}; save_total_limit keeps fewer checkpoints"),
        resume_from=str(whole[-1]) if whole else "",
    )  # fmt: skip


def prune(folder: Path, keep: int, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `keep`, but never the best or the newest; those by time do not count."""
    names = [one.name for one in checkpoints_in(folder) if not is_by_time(one)]
    for name in excess(names, keep, Path(best).name if best else ""):
        delete(folder / name)


def excess(names: Sequence[str], keep: int, best: str) -> list[str]:
    """Return the names beyond `keep` of those by steps or evaluations, which are in the order of their steps."""
    if keep < 1:
        return []
    return [name for name in names[:-1] if name != best][: max(0, len(names) - keep)]


def remove_finished(folder: CheckpointFolder, wanted: CheckpointParams) -> None:
    """Delete the checkpoints of a training whose result is written, except those that its parameters keep."""
    if wanted.keep_checkpoints == "true" or (wanted.keep_checkpoints == "auto" and wanted.save_total_limit > 0):
        return
    spare_newest = bool(wanted.checkpoint_dir) and LOCAL_ROOT not in os.environ
    names, spared = folder.names(), set[str]()
    if spare_newest and names:
        # A pod's result may still be lost on its way to the object store: the newest leads to it again, with the best.
        spared = {names[-1], folder.best_of(names[-1])}
    folder.remove(spared)
