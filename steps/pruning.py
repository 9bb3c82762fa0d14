"""The curves of a sweep's trials, and which trial ends early because the others are better.

A curve is a file of lines, each one JSON object:

    {"state": "running", "training": "3f…", "metric": "loss", "max_steps": 120}   the first line
    {"step": 10, "max_steps": 120, "loss": 2.71}                                    training loss, at a log event
    {"step": 40, "max_steps": 120, "value": 2.31}                                   the metric, at an evaluation
    {"state": "pruned", "step": 40, "value": 2.31, "reason": "validation loss …"}   or {"state": "finished"}

A value that is not finite is null. A training that begins again writes its file anew with what it resumes from. A line
that a kill left incomplete is passed over. Whether a trial is pruned is decided by Optuna.
"""

from __future__ import annotations

import json
import logging
import math
import os
import statistics
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.artifacts import write_durably
from steps.params.text_file import any_json

if TYPE_CHECKING:
    from steps.params.settings import Pruning

log = logging.getLogger("finetune")

FIRST_RUNG, FACTOR = 1, 2  # successive halving: after 1, 2, 4, 8 … evaluations the better half goes on
MOST_DIGITS = 9  # decimals, to tell two numbers apart


class Pruned(Exception):
    """A trial was ended because the other trials are better."""

    def __init__(self, step: int, value: float, reason: str):
        super().__init__(step, value, reason)
        self.step = step
        self.value = value
        self.reason = reason
        """One sentence without its full stop."""

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Curve:
    """What a file tells of a training."""

    state: str = "running"
    """running (or killed), finished or pruned."""
    training: str = ""
    """Digest of what affects the training's result."""
    metric: str = "loss"
    max_steps: int = 0
    points: tuple[tuple[int, float], ...] = ()
    """Step and value of every evaluation, in order; NaN for a value that was not finite."""
    losses: tuple[tuple[int, float], ...] = ()
    """The same of the training loss."""
    pruned: Pruned | None = None

    @property
    def step(self) -> int:
        """The last step that the file tells of."""
        return max((step for step, _ in (*self.points, *self.losses)), default=0)


def read_curve(file: Path) -> Curve | None:
    """Read a curve; None without a file. Lines that cannot be read are passed over, the last one of a step counts."""
    try:
        text = file.read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    head: dict[str, Any] = {}
    points: dict[int, float] = {}
    losses: dict[int, float] = {}
    last: dict[str, Any] = {}
    for line in _objects(text):
        step = line.get("step")
        if isinstance(line.get("state"), str):
            last = line
            head = {**head, **line} if line["state"] == "running" else head
        elif isinstance(step, int):
            for name, found in (("value", points), ("loss", losses)):
                if name in line:
                    found[step] = _number(line[name])
    most = head.get("max_steps")
    return Curve(
        last.get("state", "running"),
        str(head.get("training", "")),
        str(head.get("metric", "loss")),
        most if isinstance(most, int) else 0,
        tuple(sorted(points.items())),
        tuple(sorted(losses.items())),
        _pruned(last) if last.get("state") == "pruned" else None,
    )


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        try:
            value = any_json(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _pruned(line: Mapping[str, Any]) -> Pruned:
    step = line.get("step")
    return Pruned(step if isinstance(step, int) else 0, _number(line.get("value")), str(line.get("reason", "")))


class CurveFile:
    """Writes the curve of one training; one process at a time."""

    def __init__(self, path: Path, needed: bool = True):
        """With `needed` false, a file that cannot be written is only logged, once."""
        self.path = path
        self.needed = needed
        self._told = False

    def begin(self, training: str, metric: str, max_steps: int, points: Mapping[int, float] | None = None) -> None:
        """Start the file with the evaluations of the checkpoint from which the training is resumed."""
        head = {"state": "running", "training": training, "metric": metric, "max_steps": max_steps}
        lines = [head, *(_point(step, max_steps, "value", value) for step, value in (points or {}).items())]
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(self.path, "".join(map(_line, lines)))

    def loss(self, step: int, max_steps: int, loss: float) -> None:
        """Add the training loss of a log event."""
        self._append(_point(step, max_steps, "loss", loss))

    def value(self, step: int, max_steps: int, value: float) -> None:
        """Add the metric of an evaluation."""
        self._append(_point(step, max_steps, "value", value))

    def finish(self) -> None:
        """Add that the training has ended, once."""
        if (curve := read_curve(self.path)) and curve.state != "finished":
            self._append({"state": "finished"}, durable=True)

    def prune(self, pruned: Pruned) -> None:
        """Add that the trial was pruned."""
        told = {"state": "pruned", "step": pruned.step, "value": _finite(pruned.value), "reason": pruned.reason}
        self._append(told, durable=True)

    def _append(self, value: dict[str, Any], durable: bool = False) -> None:
        with self._errors():
            # One write for the whole line: a reader, or a kill, finds all of it or nothing.
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(number, _line(value).encode())
                if durable:
                    os.fsync(number)
            finally:
                os.close(number)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self.needed:
                raise
            if not self._told:
                log.warning("WARNING the progress cannot be written to %s: %s", self.path, error.strerror)
            self._told = True


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _point(step: int, max_steps: int, name: str, value: float) -> dict[str, Any]:
    return {"step": step, "max_steps": max_steps, name: _finite(value)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class Curves:
    """The curves of all trials of a sweep: one file for each, which only this trial writes."""

    def __init__(self, folder: Path):
        self.folder = folder

    def file(self, trial: int) -> Path:
        """Return where the curve of a trial is."""
        return self.folder / f"{trial}.jsonl"

    def read(self) -> dict[int, Curve]:
        """Read all curves by the numbers of their trials."""
        found = {int(file.stem): read_curve(file) for file in self.folder.glob("*.jsonl") if file.stem.isdecimal()}
        return {trial: curve for trial, curve in sorted(found.items()) if curve}


def decide(pruning: Pruning, curves: Mapping[int, Curve], higher_is_better: bool) -> str | None:
    """Return why the trial `pruning.trial` has to end after its last evaluation, in a sentence; None if it goes on.

    Trials are compared after the same number of evaluations: the same number of steps has another meaning with another
    batch size, and evaluations at the end of an epoch would hardly ever be at the same step.
    """
    own = curves.get(pruning.trial)
    if own is None or not own.points or own.points[-1][0] < pruning.warmup_steps:
        return None
    others = {trial: curve for trial, curve in curves.items() if trial != pruning.trial}
    compared = _compared(pruning, others, len(own.points))
    if len(compared) < pruning.startup_trials or not _optuna_prunes(pruning, own, others, higher_is_better):
        return None
    step, value = own.points[-1]
    told = f"validation {own.metric}"
    finite = [one for one in compared if not math.isnan(one)]
    if math.isnan(value) or not finite:
        return f"{told} at step {step} is not a finite number"
    if pruning.pruner == "median":
        ours, theirs = _apart(value, statistics.median(finite))
        return f"{told} {ours} at step {step} is worse than the median {theirs} of {_trials(len(finite))}"
    count = len(finite) + 1
    best = max(1, count // FACTOR)
    among = f"among the best {best} of {count} trials" if best > 1 else f"the best of {count} trials"
    return f"{told} {_apart(value, value)[0]} at step {step} is not {among} after {_evaluations(len(own.points))}"


def _compared(pruning: Pruning, others: Mapping[int, Curve], count: int) -> list[float]:
    """Return the values of the other trials that Optuna compares with after `count` evaluations."""
    finished = pruning.pruner == "median"
    return [
        curve.points[count - 1][1]
        for curve in others.values()
        if len(curve.points) >= count and (curve.state == "finished" or not finished)
    ]


def _optuna_prunes(pruning: Pruning, own: Curve, others: Mapping[int, Curve], higher_is_better: bool) -> bool:
    """Tell Optuna all curves, in a study in memory, and ask it."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy: all values of a step are NaN
            pruner = _pruner(pruning)
            study = optuna.create_study(direction="maximize" if higher_is_better else "minimize", pruner=pruner)
            for curve in others.values():
                trial, _ = _told(study, pruning, curve)
                if curve.state == "finished":
                    study.tell(trial, 0.0)  # the pruners read the values of the evaluations only
                elif curve.state == "pruned":
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return _told(study, pruning, own)[1]
    finally:
        optuna.logging.set_verbosity(level)


def _pruner(pruning: Pruning) -> Any:
    import optuna

    if pruning.pruner == "median":
        startup = pruning.startup_trials
        return optuna.pruners.MedianPruner(n_startup_trials=startup, n_min_trials=max(1, startup))
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=FACTOR)


def _told(study: Any, pruning: Pruning, curve: Curve) -> tuple[Any, bool]:
    """Tell the study a trial; return it, and whether it would be pruned after its last evaluation.

    The pruner is asked after each evaluation, because successive halving remembers then which rung a trial has reached.
    """
    trial = study.ask()
    prunes = False
    for count, (step, value) in enumerate(curve.points, start=1):
        trial.report(value, count)
        if pruning.pruner == "successive_halving" or curve.points[-1][0] == step:
            prunes = step >= pruning.warmup_steps and trial.should_prune()
    return trial, prunes


def _apart(one: float, other: float) -> tuple[str, str]:
    """Write two numbers with at least two decimals, and with as many as show that they differ or are not 0."""
    for digits in range(2, MOST_DIGITS):
        texts = f"{one:.{digits}f}", f"{other:.{digits}f}"
        hidden = any(number and not float(text) for number, text in zip((one, other), texts, strict=True))
        if not hidden and (one == other or texts[0] != texts[1]):
            return texts
    return f"{one:g}", f"{other:g}"


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _evaluations(count: int) -> str:
    return "1 evaluation" if count == 1 else f"{count} evaluations"
