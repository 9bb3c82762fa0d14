"""Tests that need a GPU: half precision, gradient checkpointing, and evaluation with the same results as on a CPU."""

import json
from pathlib import Path

import pytest
from conftest import chat_rows
from training_inputs import as_imported, settings_with, write_tokens

from steps.params.lora import LoraParams

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return as_imported(tiny_model, tmp_path / "model")


@pytest.fixture
def data(model: Path, tmp_path: Path) -> Path:
    from transformers import AutoTokenizer

    return write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(model), chat_rows(50))


@pytest.mark.parametrize("precision", ["32", "16"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_training_learns_on_a_gpu(model, data, tmp_path, precision, lora, recompute):
    from steps.finetune.step import finetune

    training = {"num_train_epochs": 4, "precision": precision, "gradient_checkpointing": recompute}
    settings = settings_with(training, lora=LoraParams(apply_lora=lora, lora_r=8))
    finetune(settings, model, data, tmp_path / "tuned", tmp_path / "checkpoints", tmp_path / "report.html")
    losses = [point["loss"] for point in json.loads((tmp_path / "tuned/history.json").read_text())["points"]]
    assert losses[-1] < losses[0]


def test_losses_on_a_gpu_equal_those_on_a_cpu(model, data, tmp_path, monkeypatch):
    from steps.finetune.step import finetune

    traces = []
    for where in ("gpu", "cpu"):
        if where == "cpu":
            monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        out = tmp_path / where
        finetune(settings_with({"max_steps": 4}), model, data, out / "tuned", out / "checkpoints", out / "report.html")
        points = json.loads((out / "tuned/history.json").read_text())["points"]
        traces.append([point["loss"] for point in points])
    assert traces[0] == pytest.approx(traces[1], rel=1e-3)
