"""Checkpoints by time: their size, how often they are saved, and how much work an interruption then costs.

The interval is Young's: the square root of 2 · time of a save · mean time between interruptions (Communications of the
ACM 17, 1974, page 530). It costs as much time for saves as for work that is done again.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from steps.params.pipeline import SupervisedParameters
from steps.plan.need import GIB
from steps.plan.room import is_asked_for
from steps.plan.seen import Seen, runs_here
from steps.plan.strategy import seen_checkpoint
from steps.plan.verl import asked
from steps.running import LOCAL_ROOT
from steps.sources.storage import local_path

MIB = 2**20
WRITE_RATE = 125 * MIB  # bytes a second: what an Amazon EBS volume of the type gp3 has without extra charge
BETWEEN_INTERRUPTIONS = 24 * 3600.0  # seconds: Google stops a preemptible machine after 24 hours at the latest
SHORTEST, LONGEST = 5, 60  # minutes
LARGEST_SHARE = 0.05  # of the time may go into saves; otherwise an interval longer than LONGEST is right
SET_PLACE = "set checkpoint_dir to an object store, or to a folder on a volume that outlives the pod"


@dataclass(frozen=True)
class Saves:
    """How a training is protected against an interruption."""

    minutes: float
    """Between checkpoints by time; 0: none."""
    bytes: int
    """Of one checkpoint, about."""
    place: str
    """Folder or URI that outlives the process or pod; empty: none."""
    at_once: int | None
    """Checkpoints on disk at one time, at most; None if it is not known yet."""
    between: str
    """What else is saved, as it stands after "since"."""
    elsewhere: bool = False
    """Whether a local run is planned for a machine that was named."""

    @property
    def seconds(self) -> float:
        """Time of a save at the assumed rate."""
        return self.bytes / WRITE_RATE

    @property
    def told(self) -> list[dict[str, Any]]:
        """Rows of {name, value, how} for the plan's table."""
        count = f"; at most {self.at_once} at once, {_size(self.at_once * self.bytes)}" if self.at_once else ""
        where = f", below {self.place}" if self.place else ", on the pod's own disk"
        where += ", uploaded in the background" if self._is_store else ""
        return [
            {"name": "checkpoint", "value": _size(self.bytes), "how": f"weights and optimizer states{count}{where}"},
            {"name": "checkpoints by time", "value": self._value, "how": self._how},
        ]

    @property
    def _is_store(self) -> bool:
        return bool(self.place) and local_path(self.place) is None

    @property
    def _value(self) -> str:
        return f"{self.minutes:g} min" if self.minutes else "none"

    @property
    def _how(self) -> str:
        if not self.place:
            lost = "an interrupted training starts again at step 0"
            return f"they are lost with the pod: {lost}; {SET_PLACE}" if self.minutes else f"{lost}: {SET_PLACE}"
        cluster = f"; on a cluster, {SET_PLACE}" if self.elsewhere else ""
        if not self.minutes:
            return f"save_minutes is 0: an interruption loses what was trained since {self.between}{cluster}"
        word = "minute" if self.minutes == 1 else "minutes"
        most = f"an interruption loses at most {self.minutes:g} {word} of training"
        most += " and what is trained during an upload" if self._is_store else ""
        return f"{most}; a checkpoint takes about {_seconds(self.seconds)}{cluster}"


def saves_of(seen: Seen, steps: int | None) -> Saves:
    """Decide how often checkpoints are saved by time; `steps` is the number of optimizer steps, None if unknown."""
    p = seen.parameters
    size = seen_checkpoint(seen)
    place = _place(p)
    minutes = p.save_minutes if p.save_minutes >= 0 else interval(size) if place else 0.0
    minutes = 0.0 if asked(p) else minutes  # verl counts steps only
    elsewhere = runs_here() and is_asked_for(p) and not p.checkpoint_dir
    return Saves(minutes, size, place, _at_once(p, steps, minutes), _between(p), elsewhere)


def interval(size: int) -> float:
    """Return the minutes between checkpoints of `size` bytes, a whole number."""
    seconds = size / WRITE_RATE
    longest = max(LONGEST, math.ceil(seconds / LARGEST_SHARE / 60))
    young = math.sqrt(2 * seconds * BETWEEN_INTERRUPTIONS) / 60
    return float(round(min(max(young, SHORTEST), longest)))


def _place(p: SupervisedParameters) -> str:
    if p.checkpoint_dir:
        return p.checkpoint_dir
    return f"{os.environ[LOCAL_ROOT]}/checkpoints" if runs_here() else ""


def _between(p: SupervisedParameters) -> str:
    if found := asked(p):
        return f"the last checkpoint, of every {found.trainer_save_freq} steps"
    usual = {"epoch": "the last evaluation", "steps": "the last evaluation", "no": "the end of the last epoch"}
    return usual[p.evaluation_strategy] + (", or save_steps before" if p.save_steps > 0 else "")


def _at_once(p: SupervisedParameters, steps: int | None, minutes: float) -> int | None:
    """Count those that are kept, the one by time, and one that is written while the one that it replaces is there."""
    by_time = 1 if minutes else 0
    if p.save_total_limit > 0:
        return p.save_total_limit + 1 + by_time
    if steps is None and (p.save_steps > 0 or p.evaluation_strategy == "steps" or p.max_steps > 0):
        return None
    if p.evaluation_strategy == "steps":
        kept = math.ceil((steps or 0) / p.eval_steps)
    elif p.max_steps > 0:
        return None  # how many epochs that is depends on the rows
    else:
        kept = math.ceil(p.num_train_epochs)
    return kept + ((steps or 0) // p.save_steps if p.save_steps > 0 else 0) + by_time


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{max(size / MIB, 0.1):.1f} MiB"


def _seconds(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{seconds / 60:.0f} min"
