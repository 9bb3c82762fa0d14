"""A training by verl, in a process of its own (`steps/verl/`): its place, its tracked run, its checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from steps.artifacts import read_manifest
from steps.errors import StepError
from steps.finetune.checkpoints import CheckpointFolder
from steps.finetune.result import lineage_of
from steps.finetune.training import tracked
from steps.params.settings import FinetuneSettings, RewardSettings
from steps.params.verl_training import BY_SOURCE
from steps.tracking.parameters import parameters_of
from steps.verl.packages import refuse_missing
from steps.verl.training import VerlTraining, train_by_verl


@dataclass(frozen=True)
class OnNodes:
    """What verl needs where it trains on several nodes."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables with which it finds Ray."""
    watch: Callable[[], None] = lambda: None
    """Called several times a second; raises if a node has gone."""
    began: Callable[[], None] = lambda: None
    """Called when the checkpoint is known that it goes on from."""


def resume_of(settings: FinetuneSettings, retried: bool) -> str:
    """Return what resume_from_checkpoint means to verl; `retried`: this task was started before."""
    wanted = settings.checkpoints.resume_from_checkpoint
    return "auto" if retried and wanted == "false" else wanted


def train_with_verl(
    settings: FinetuneSettings,
    inputs: dict[str, str],
    model: Path,
    data: Path,
    tuned: Path,
    merged: Path | None,
    folder: CheckpointFolder,
    resume: str,
    on_nodes: OnNodes | None = None,
) -> None:
    """Train with verl, or resume as `resume` says, and write `tuned` and `merged`.

    Raises as `train_by_verl`.
    """
    assert settings.verl is not None
    refuse_missing(settings.verl)
    nodes = on_nodes or OnNodes()

    def began(step: int) -> None:
        folder.forget_after(step)
        nodes.began()

    with _told_where_it_stays(folder), tracked(settings, inputs, folder, resume != "false") as tracker:
        tracker.parameters(parameters_of(settings, read_manifest(data, "data").lineage))
        train_by_verl(
            VerlTraining(
                settings=settings.verl,
                model=model,
                data=data,
                tuned=tuned,
                checkpoints=folder.path,
                identity=folder.identity,
                lineage=lineage_of(settings, inputs),
                rewards=_own_rewards(settings.rewards),
                resume=folder.brought(resume),
                merged=merged,
                environment=nodes.environment,
                watch=nodes.watch,
                began=began,
            ),
            tracker,
        )
        tracker.flush()


@contextmanager
def _told_where_it_stays(folder: CheckpointFolder) -> Iterator[None]:
    """Let an error name the checkpoint where it outlives this process: verl knows the folder here."""
    try:
        yield
    except StepError as error:
        if error.resume_from and folder.place != str(folder.path):
            error.resume_from = folder.saved() or error.resume_from
        raise


def _own_rewards(asked: RewardSettings | None) -> RewardSettings | None:
    """Return the rewards of this project that verl calls; None for by_source, as which verl's own functions decide."""
    return asked if asked is not None and asked.rewards != [BY_SOURCE] else None
