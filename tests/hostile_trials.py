"""The plan and the import of a small model that a test has changed, each within some seconds."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from hostile_files import ADAPTED, CONFIG, LORA, SHAPES, TOKENIZER, TOKENIZER_CONFIG, put, safetensors, weights

from steps.errors import UserError
from steps.import_model.step import import_model
from steps.params.settings import ImportSettings, Resolved
from steps.plan.deciding import decide
from steps.sources import storage

SECONDS = 10


@contextmanager
def soon(seconds: int = SECONDS) -> Iterator[None]:
    """Fail what takes longer, also while it waits for a file that never ends."""

    def fail(*_: object) -> None:
        raise AssertionError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def good_model(tmp_path, monkeypatch) -> Path:
    """The folder of a model without torch behind it, with rows beside it, and a root for runs."""
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_jsonl(tmp_path / "rows.jsonl", chat_rows(40))
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in {"config": CONFIG, "tokenizer": TOKENIZER, "tokenizer_config": TOKENIZER_CONFIG}.items():
        put(f"{name}.json", content)(folder)
    weights(safetensors(SHAPES))(folder)
    return folder


@pytest.fixture
def good_adapter(good_model) -> Path:
    """A LoRA adapter of that model."""
    folder = good_model.parent / "adapter"
    folder.mkdir()
    put("adapter_config.json", LORA)(folder)
    factors = {f"{ADAPTED}.lora_A.weight": [2, 8], f"{ADAPTED}.lora_B.weight": [8, 2]}
    put("adapter_model.safetensors", safetensors(factors))(folder)
    return folder


def planned(model: Path, seconds: int = SECONDS, **given: object) -> object:
    """Plan a training of a model on the rows beside it."""
    given = {"pytorch_model_path": str(model), "number_of_gpu_to_use_finetuning": 0, **given}
    with soon(seconds):
        return decide("chat_completion", {"train_file_path": str(model.parent / "rows.jsonl"), **given})


def imported(model: Path, kind: str = "pytorch", digest: str = "", **more: object) -> None:
    """Import a model as the plan would ask for it."""
    settings = ImportSettings(kind=kind, source=Resolved(uri=str(model), digest=digest or "0" * 64), **more)
    with soon():
        import_model(settings, model.parent / "out", model.parent / "out-tokenizer")


def digest_of(folder: Path) -> str:
    """Return the digest of a folder; none of one that has to be refused before its digest is computed."""
    if any(file.is_symlink() or file.stat().st_size > 1 << 30 for file in folder.iterdir()):
        return ""
    with suppress(UserError):
        return storage.digest_of("pytorch_model_path", str(folder))
    return ""
