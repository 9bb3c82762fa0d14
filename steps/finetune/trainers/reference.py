"""The reference of preference training: a separate model, and stored log-probabilities."""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steps.adapters.layout import REFERENCE_FOLDER, reference_of
from steps.artifacts import new_artifact, read_manifest
from steps.errors import StepError
from steps.finetune.run import Run
from steps.models.generation_settings import load_reduced
from steps.models.layout import refuse_unsafe_weights
from steps.params.settings import FinetuneSettings

log = logging.getLogger("finetune")

ANSWERS = "answers.parquet"
# Settings without effect on the reference's log-probabilities. The batch size has one: padding changes the last digits.
NO_MATTER = {
    "training": {
        "num_train_epochs", "max_steps", "auto_find_batch_size", "gradient_accumulation_steps", "learning_rate",
        "lr_scheduler_type", "warmup_steps", "warmup_ratio", "optim", "weight_decay", "neftune_noise_alpha",
        "max_grad_norm", "gradient_checkpointing", "seed", "evaluation_strategy", "eval_steps", "metric_for_best_model",
        "logging_strategy", "logging_steps", "apply_early_stopping", "early_stopping_patience",
        "early_stopping_threshold", "stop_on_loss_spike",
    },
    "lora": {"lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"},
}  # fmt: skip


def own_reference(run: Run, model: Any) -> Any | None:
    """Load the reference that was imported with the model, as TRL loads its copy of the base; None without one."""
    folder = reference_of(run.model)
    if folder is None:
        return None
    refuse_unsafe_weights(folder)
    from transformers import AutoModelForCausalLM

    # In bfloat16, like the base, with an adapter at precision 16, else in float32.
    how = {"dtype": model.dtype, "attn_implementation": model.config._attn_implementation}
    return load_reduced(AutoModelForCausalLM, folder, local_files_only=True, **how)


def identity_of(run: Run) -> dict[str, Any]:
    """Return everything that affects the reference's log-probabilities: its files, settings, versions and device.

    Trainings with the same values share stored log-probabilities, also with different learning rates.
    """
    import torch

    files = read_manifest(run.model).files
    inside = f"{REFERENCE_FOLDER}/"
    own = {name: entry["sha256"] for name, entry in files.items() if name.startswith(inside)}
    return {
        "files": own or {name: entry["sha256"] for name, entry in files.items()},
        "settings": _asked(run.settings),
        "versions": {name: version(name) for name in ("torch", "transformers", "trl", "peft")},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


def _asked(settings: FinetuneSettings) -> dict[str, Any]:
    """Return the settings without those in NO_MATTER; a new setting is included until it is listed there."""
    told = settings.model_dump(mode="json", exclude={"checkpoints", "tracking", "preference", "pruning", "nodes"})
    for group, names in NO_MATTER.items():
        told[group] = {name: value for name, value in told[group].items() if name not in names}
    return told


class Said:
    """Stored log-probabilities of a reference for the rows of one split, in a folder named by their identity."""

    def __init__(self, shared: Path, identity: dict[str, Any], split: str, rows: pa.Table):
        self.identity = {**identity, "rows": _digest(rows), "split": split}
        key = sha256(json.dumps(self.identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self.folder = shared / "references" / f"{key}-{split}"
        self.count = len(rows)

    def read(self) -> pa.Table | None:
        """Return the columns; None if they are missing or incomplete."""
        if not self.folder.is_dir():
            return None
        try:
            read_manifest(self.folder, "reference")
            told = pq.read_table(self.folder / ANSWERS)
        except (StepError, OSError, ValueError) as error:
            log.warning("WARNING computing the reference's log-probabilities again: %s", error)
            return None
        return told if len(told) == self.count else None

    def write(self, columns: pa.Table) -> None:
        """Store the columns atomically."""
        with new_artifact(self.folder, "reference", {"identity": self.identity}) as draft:
            draft.facts = {"rows": self.count}
            pq.write_table(columns, draft / ANSWERS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one process compute at a time: a second one that needs the same waits for the result."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with open(self.folder.with_suffix(".lock"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _digest(rows: pa.Table) -> str:
    digest = sha256(str(rows.schema).encode())
    for batch in rows.combine_chunks().to_batches():
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        digest.update(sink.getvalue())
    return digest.hexdigest()
