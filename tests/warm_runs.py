"""One warm Python for the tasks of many runs; a run of the command starts one of its own otherwise.

The fixtures here are known to every test (`pytest_plugins` in conftest.py).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

TASKS = ("plan", "import_model", "import_adapter", "prepare_data", "finetune", "trial", "evaluate", "generate", "score",
         "register_model", "report")  # fmt: skip


@pytest.fixture(scope="session")
def warm_folder() -> Iterator[Path]:
    """Where the server is; every task of a run is forked from it."""
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
