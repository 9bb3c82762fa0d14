"""A model folder that a test may change, and what a local run on a CPU decides about it.

The fixture is known to every test (`pytest_plugins` in conftest.py).
"""

import shutil
from pathlib import Path

import pytest

from steps.plan.deciding import Decisions, decide


@pytest.fixture
def local_base(tiny_model, tmp_path, monkeypatch) -> Path:
    """A copy of the tiny model, in a local run."""
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    return shutil.copytree(tiny_model, tmp_path / "base")


def planned(base: Path, rows: Path, pipeline: str = "chat_completion", **changes) -> Decisions:
    """Decide about a training on a CPU; `changes` are further parameters."""
    given = {"pytorch_model_path": str(base), "train_file_path": str(rows), "number_of_gpu_to_use_finetuning": 0}
    return decide(pipeline, {**given, **changes})
