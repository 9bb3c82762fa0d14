"""Where a training writes its curve: among the curves of its sweep, and into a file that shows its progress."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from steps.finetune.checkpoints import CheckpointFolder
from steps.launch.group import current
from steps.params.metrics import direction_of
from steps.params.settings import FinetuneSettings
from steps.pruning import Curve, CurveFile, Curves, Pruned, decide, read_curve
from steps.running import CURVE

CURVES = "curves"  # below CheckpointFolder.shared


class TrainingCurve:
    """The curve of one training; without a sweep and without FINETUNE_CURVE nothing is written."""

    def __init__(self, settings: FinetuneSettings, folder: CheckpointFolder):
        self.metric = settings.training.metric_for_best_model
        self._training = folder.key
        self._pruning = settings.pruning
        self._files: list[CurveFile] = []
        if settings.pruning:
            self._siblings = Curves(folder.shared / CURVES / settings.pruning.sweep)
            self._own = CurveFile(self._siblings.file(settings.pruning.trial))
            self._files.append(self._own)
        if shown := os.environ.get(CURVE):
            # What watches a training may have gone, or its disk may be full: no reason to end the training.
            self._files.append(CurveFile(Path(shown), needed=False))
        self.written = bool(self._files)
        """Whether there is a file to write."""
        if not current().is_first:
            self._files = []

    @property
    def is_pruned(self) -> bool:
        """Whether an earlier process has pruned this training."""
        return self._marked() is not None

    def refuse_pruned(self) -> None:
        """Raise Pruned if an earlier process has pruned this training."""
        curve = self._marked()
        if curve and curve.pruned:
            for file in self._files[1:]:
                file.begin(self._training, self.metric, curve.max_steps, dict(curve.points))
                file.prune(curve.pruned)
            raise curve.pruned

    def _marked(self) -> Curve | None:
        curve = read_curve(self._own.path) if self._pruning else None
        return curve if curve and curve.pruned and curve.training == self._training else None

    def begin(self, max_steps: int, points: Mapping[int, float]) -> None:
        """Start the curve; `points` are the evaluations before the step from which the training is resumed."""
        for file in self._files:
            file.begin(self._training, self.metric, max_steps, points)

    def loss(self, step: int, max_steps: int, loss: float) -> None:
        """Add the training loss of a log event."""
        for file in self._files:
            file.loss(step, max_steps, loss)

    def value(self, step: int, max_steps: int, value: float) -> None:
        """Add the metric of an evaluation."""
        for file in self._files:
            file.value(step, max_steps, value)

    def refuse_worse(self) -> None:
        """Raise Pruned, and mark the curve, if the other trials of the sweep are better.

        Of several processes, the first one decides for all.
        """
        worse = self._worse() if current().is_first else None
        if worse := current().of_first(worse):
            raise worse

    def _worse(self) -> Pruned | None:
        if not self._pruning:
            return None
        curves = self._siblings.read()
        if reason := decide(self._pruning, curves, bool(direction_of(self.metric))):
            pruned = Pruned(*curves[self._pruning.trial].points[-1], reason)
            for file in self._files:
                file.prune(pruned)
            return pruned
        return None

    def finish(self) -> None:
        """Add that the training has ended and its result is written."""
        for file in self._files:
            file.finish()
