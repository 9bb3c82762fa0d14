"""A training by verl, in a process of its own (`steps/verl/`): its place, its tracked run, its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


def train_with_verl(
    settings: FinetuneSettings,
    inputs: dict[str, str],
    model: Path,
    data: Path,
    tuned: Path,
    merged: Path | None,
    folder: CheckpointFolder,
    retried: bool,
) -> None:
    """Train with verl, or resume, and write `tuned` and `merged`; `retried`: this task was started before.

    Raises as `train_by_verl`.
    """
    assert settings.verl is not None
    refuse_missing(settings.verl)
    wanted = settings.checkpoints.resume_from_checkpoint
    resume = "auto" if retried and wanted == "false" else wanted
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
                began=folder.forget_after,
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
