"""Where the checkpoints of a training are."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from steps.finetune.checkpoints.folder import SHARED, CheckpointFolder
from steps.finetune.checkpoints.remote import RemoteFolder
from steps.params.batch import BY_HAND
from steps.params.settings import FinetuneSettings
from steps.params.verl_settings import NO_RESULT
from steps.running import LOCAL_ROOT
from steps.sources.storage import join, local_path


def folder_for(settings: FinetuneSettings, inputs: dict[str, str], fallback: Path) -> CheckpointFolder:
    """Return the folder of a training: below checkpoint_dir, else below the local root, else `fallback`."""
    identity = identity_of(settings, inputs)
    key = CheckpointFolder(fallback, identity, fallback).key
    wanted = settings.checkpoints.checkpoint_dir
    here = Path(os.environ[LOCAL_ROOT], "checkpoints") if LOCAL_ROOT in os.environ else None
    if wanted and (root := local_path(wanted)) is None:
        # What trainings share stays on this machine's disk: only local runs have one that outlives them.
        shared = (here or fallback) / SHARED
        uri = join(join(wanted, settings.pipeline), key)
        path = fallback / settings.pipeline / key
        return RemoteFolder(path, identity, shared, uri, fallback, settings.checkpoints.save_total_limit)
    root = local_path(wanted) if wanted else here
    if root is None:
        return CheckpointFolder(fallback, identity, fallback)
    return CheckpointFolder(root / settings.pipeline / key, identity, root / SHARED)


def identity_of(settings: FinetuneSettings, inputs: dict[str, str]) -> dict[str, Any]:
    """Return everything that affects the result of a training.

    Pruning is left out: it ends a training, or changes nothing, so a trial goes on where the same training was left. So
    is how the sequences of a step are divided among processes and forward passes.
    """
    own = settings.model_dump(mode="json", exclude={"checkpoints", "tracking", "gpus", "pruning", "processes", "nodes"})
    training = own["training"]
    own["training"] = {name: value for name, value in training.items() if name not in BY_HAND} | {
        "sequences_per_step": math.prod(training[name] for name in BY_HAND) * settings.processes.count
    }
    if settings.rewarded and (passes := settings.rewarded.steps_per_generation):
        # Of the same division of a step, as many completions are written at a time.
        size = settings.training.per_device_train_batch_size * settings.processes.count
        own["rewarded"]["sequences_per_generation"] = passes * size
        del own["rewarded"]["steps_per_generation"]
    if settings.verl:
        own["verl"] = {name: value for name, value in own["verl"].items() if name not in NO_RESULT}
    return {"settings": own, "inputs": inputs}


def refuse_unwritable(folder: CheckpointFolder) -> None:
    """Raise UserError, or OutOfResources for a full disk, if checkpoints cannot be written."""
    folder.refuse_unwritable()
