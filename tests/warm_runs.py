"""Pythons that have loaded what runs and trainings need, for those of many tests.

The fixtures here are known to every test (`pytest_plugins` in conftest.py).
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from forking import ForkingPython

TASKS = ("plan", "import_model", "prepare_data", "finetune", "trial", "evaluate", "register_model", "report")
# What trainings in several processes load.
LIBRARIES = [
    "several_trainings",
    "deepspeed",
    "bitsandbytes",
    "peft",
    "trl.trainer.sft_trainer",
    "trl.trainer.dpo_trainer",
    "trl.trainer.grpo_trainer",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "bert", "t5")),
]


@pytest.fixture(scope="session")
def warm_folder() -> Iterator[Path]:
    """Where the server is; every task of a run is forked from it, which starts one of its own otherwise."""
    from pipelines.warm import warm_python

    with warm_python(waiting=TASKS) as folder:
        assert folder
        yield folder


@pytest.fixture
def warm(warm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of this test share the server."""
    monkeypatch.setenv("FINETUNE_WARM", str(warm_folder))


@pytest.fixture
def runs_root(empty_database: Path, tmp_path: Path) -> Path:
    """A folder for runs that has a tracking database already: its migrations take seconds."""
    (tmp_path / "runs").mkdir()
    shutil.copyfile(empty_database, tmp_path / "runs/mlflow.db")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def loaded() -> Iterator[ForkingPython]:
    """A Python that has loaded what trainings in several processes need."""
    paths = os.pathsep.join(str(Path(__file__).parents[number]) for number in (0, 1))
    made = ForkingPython(LIBRARIES, {**os.environ, "PYTHONPATH": paths})
    yield made
    made.close()
