"""A training by verl, in a process of its own (`steps/verl/`): its place, its tracked run, its checkpoints."""

from __future__ import annotations

from pathlib import Path

from steps.artifacts import read_manifest
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
    with tracked(settings, inputs, folder, resume != "false") as tracker:
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
                resume=resume,
                merged=merged,
            ),
            tracker,
        )
        tracker.flush()


def _own_rewards(asked: RewardSettings | None) -> RewardSettings | None:
    """Return the rewards of this project that verl calls; None for by_source, as which verl's own functions decide."""
    return asked if asked is not None and asked.rewards != [BY_SOURCE] else None
