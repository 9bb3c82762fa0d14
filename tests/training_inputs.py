"""Inputs of a training, made without the previous steps: settings, tokens by TRL's preparation, an import."""

import shutil
from pathlib import Path

from steps.artifacts import new_artifact
from steps.params.settings import FinetuneSettings
from steps.params.training import TrainingParams

TRAINING = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 2,
    "optim": "adamw_torch",
    "weight_decay": 0.01,
    "logging_steps": 1,
    "gradient_checkpointing": "false",
}


def settings_with(training: dict | None = None, **changes) -> FinetuneSettings:
    return FinetuneSettings(
        pipeline="chat_completion",
        training=TrainingParams(**{**TRAINING, **(training or {})}),
        max_length=64,
        **changes,
    )


def write_tokens(folder: Path, tokenizer, rows: list[dict], packing: bool = False) -> Path:
    """Make a data artifact from TRL's own preparation, independent of prepare_data."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    def tokens(part: list[dict]) -> pa.Table:
        ids = [tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"][:64] for row in part]
        dataset = Dataset.from_dict({"input_ids": ids, "labels": ids})
        return (pack_dataset(dataset, 64, "bfd") if packing else dataset).data.table

    with new_artifact(folder, "data") as draft:
        (draft / "tokens").mkdir()
        pq.write_table(tokens(rows[:40]), draft / "tokens/train.parquet")
        pq.write_table(tokens(rows[40:]), draft / "tokens/validation.parquet")
    return folder


def write_ids(folder: Path, **splits: list[list[int]]) -> Path:
    """Make a data artifact of rows that are given as token numbers, every token learned."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with new_artifact(folder, "data") as draft:
        (draft / "tokens").mkdir()
        for name, rows in splits.items():
            pq.write_table(pa.table({"input_ids": rows, "labels": rows}), draft / f"tokens/{name}.parquet")
    return folder


def as_imported(source: Path, target: Path) -> Path:
    """Make a model artifact of a plain folder, as import_model would."""
    with new_artifact(target, "model", {"source": "somewhere"}) as draft:
        for file in source.iterdir():
            shutil.copy(file, draft / file.name)
    return target
