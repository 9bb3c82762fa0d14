"""The metrics of a training with verl: read while it goes on, and joined over its starts.

verl's logger `file` writes a JSON line for each step, {"step": 3, "data": {"actor/pg_loss": 0.1, …}}, into the file
that the variable VERL_FILE_LOGGER_PATH names, and empties the file when it starts; so each start has a file of its own,
named by the step that it goes on from. Numbers that JSON does not have (NaN, infinity) are null there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steps.errors import NumericError, Problem

FOLDER = "metrics"  # beside the checkpoints
NAME = re.compile(r"from-([0-9]+)\.jsonl")
# What the report and the curve call a metric, and what verl does.
NAMES = {
    "loss": "actor/loss",
    "learning_rate": "actor/lr",
    "grad_norm": "actor/grad_norm",
    "reward": "critic/score/mean",
    "kl": "actor/kl_loss",
    "entropy": "actor/entropy",
    "completions/mean_length": "response_length/mean",
    "completions/clipped_ratio": "response_length/clip_ratio",
}
EPOCH, TOKENS = "training/epoch", "perf/total_num_tokens"
VALIDATION = re.compile(r"val-core/(?P<source>.+)/(?P<metric>reward|acc|score)/mean@\d+")
# verl leaves out a step whose gradients are not finite, and goes on (workers/engine, optimizer_step).
LOSSES = ("actor/loss", "actor/pg_loss", "actor/kl_loss", "critic/vf_loss")
NORMS = ("actor/grad_norm", "critic/grad_norm")
UNTRACKED = re.compile(r"[^\w\-. :/]", re.ASCII)  # all that MLflow's names of metrics may not have
MOST_LEFT_OUT = 5  # steps in a row; gradients do not become finite by themselves after that


@dataclass(frozen=True)
class Logged:
    """What verl logged after a step."""

    step: int
    values: dict[str, float | None]
    """Numbers by verl's names; None for one that is not finite."""

    @property
    def finite(self) -> dict[str, float]:
        """The numbers."""
        return {name: value for name, value in self.values.items() if value is not None}

    @property
    def tracked(self) -> dict[str, float]:
        """The numbers by names that a tracker can store: MLflow refuses mean@1."""
        return {UNTRACKED.sub("_", name.replace("@", "_at_")): value for name, value in self.finite.items()}


@dataclass
class MetricsFile:
    """The file that a running verl writes."""

    file: Path
    _read: int = 0
    _left_out: int = field(default=0, repr=False)

    def new(self) -> list[Logged]:
        """Return what was logged since the last call.

        Raises NumericError for a loss that is not finite, or gradients that are not in MOST_LEFT_OUT steps in a row.
        """
        if not self.file.is_file():
            return []
        with open(self.file, "rb") as stream:
            stream.seek(self._read)
            text = stream.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        found = list(_logged(whole))
        for one in found:
            self._refuse_infinite(one)
        return found

    def _refuse_infinite(self, one: Logged) -> None:
        lost = [name for name in LOSSES if name in one.values and one.values[name] is None]
        norms = [name for name in NORMS if name in one.values and one.values[name] is None]
        self._left_out = self._left_out + 1 if norms else 0
        if lost or self._left_out >= MOST_LEFT_OUT:
            times = "" if lost else f" in {self._left_out} steps in a row"
            raise NumericError(
                Problem("VERL-E0604", f"step {one.step}", f"{(lost or norms)[0]} that is NaN or infinite{times}",
                        "finite numbers", "lower actor_optim_lr, or clip gradients with actor_optim_clip_grad")
            )  # fmt: skip


def file_from(checkpoints: Path, step: int) -> Path:
    """Return the file for a start at `step`; those of starts that went further, which is trained again, are deleted."""
    folder = checkpoints / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob("from-*.jsonl"):
        if (name := NAME.fullmatch(other.name)) and int(name[1]) >= step:
            other.unlink()
    return folder / f"from-{step:06}.jsonl"


def read_all(checkpoints: Path) -> list[Logged]:
    """Return everything that was logged until now, each step once: as the start logged it that went on with it."""
    starts = sorted(
        (int(name[1]), file)
        for file in (checkpoints / FOLDER).glob("from-*.jsonl")
        if (name := NAME.fullmatch(file.name))
    )
    found: list[Logged] = []
    for start, file in starts:
        found = [one for one in found if one.step <= start]
        known = {one.step for one in found}
        found += [one for one in _logged(file.read_bytes()) if one.step > start or one.step not in known]
    return found


def history_of(logged: list[Logged]) -> dict[str, Any]:
    """Return points and evaluations as the histories of the other trainers have them.

    There is no best step: verl's result is the last one.
    """
    points: list[dict[str, Any]] = []
    evaluations: list[dict[str, Any]] = []
    for one in logged:
        epoch = one.values.get(EPOCH)
        point = {ours: one.values.get(theirs) for ours, theirs in NAMES.items() if theirs in one.values}
        if "loss" in point:
            points.append({"step": one.step, "epoch": epoch, **point})
        if (reward := _validated(one.values)) is not None:
            evaluations.append({"step": one.step, "epoch": epoch, "reward": reward})
    return {"points": points, "evaluations": evaluations, "best": None}


def tokens_in(logged: list[Logged]) -> int:
    """Return the tokens of prompts and answers together."""
    return int(sum(one.values.get(TOKENS) or 0 for one in logged))


def _validated(values: Mapping[str, float | None]) -> float | None:
    """Return the mean over the data sources of what their answers scored; None without a validation."""
    found = [value for name, value in values.items() if value is not None and VALIDATION.fullmatch(name)]
    return sum(found) / len(found) if found else None


def _logged(text: bytes) -> Iterator[Logged]:
    for line in text.splitlines():
        try:
            told = json.loads(line)
            step, data = int(told["step"]), dict(told["data"])
        except (ValueError, KeyError, TypeError):  # a kill cut it off
            continue
        yield Logged(step, {name: _number(value) for name, value in data.items() if _is_number(value)})


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: Any) -> float | None:
    return value if value is not None and math.isfinite(value) else None
