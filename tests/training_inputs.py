"""What a training needs, made without the steps before it: settings, tokens by TRL's own preparation, an import.

The fixtures here are known to every test (`pytest_plugins` in conftest.py).
"""

import json
import shutil
from pathlib import Path

import pytest

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


def train(settings: FinetuneSettings, model: Path, data: Path, out: Path) -> dict:
    """Run finetune into out/tuned, out/checkpoints and out/report.html; give the history that it wrote."""
    from steps.finetune.step import finetune

    finetune(settings, model, data, out / "tuned", out / "checkpoints", out / "report.html")
    return json.loads((out / "tuned" / "history.json").read_text())


@pytest.fixture
def local_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where trainings keep what outlives them, below tmp_path; nothing is tracked."""
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "root"


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as import_model would hand it on."""
    return as_imported(tiny_model, tmp_path / "model")


@pytest.fixture
def tokenizer(model: Path):
    """The tiny model's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@pytest.fixture
def data(tmp_path: Path, tokenizer) -> Path:
    """Tokens of 40 + 10 conversations."""
    from conftest import chat_rows

    return write_tokens(tmp_path / "data", tokenizer, chat_rows(50))


@pytest.fixture
def bert(shared, tmp_path: Path, local_root: Path) -> Path:
    """A small random BERT as import_model would hand it on."""
    from classifiers import build_bert

    return as_imported(shared.made("bert", build_bert), tmp_path / "model")


@pytest.fixture(params=["bert", "llama"])
def base(request: pytest.FixtureRequest, local_root: Path) -> Path:
    """An encoder and a decoder, each as import_model would hand it on."""
    return request.getfixturevalue({"bert": "bert", "llama": "model"}[request.param])
