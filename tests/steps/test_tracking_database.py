"""The database of a store without a server is created once and is whole or absent."""

import subprocess
import sys
import time

import pytest

from steps.tracking.database import DRAFT, make_place

pytestmark = pytest.mark.slow

CODE = """
import sys
from mlflow import MlflowClient
from steps.tracking.database import make_place
make_place(sys.argv[1])
print(len(MlflowClient(tracking_uri=sys.argv[1]).search_experiments()))
"""


def begin(uri: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CODE, uri], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_at_the_same_time_create_it_once(tmp_path):
    folder = tmp_path / "it's a root"
    both = [begin(f"sqlite:///{folder}/mlflow.db") for _ in range(2)]
    told = [process.communicate(timeout=300) for process in both]
    assert [(process.returncode, out) for process, (out, _) in zip(both, told, strict=True)] == [(0, "1\n")] * 2
    errors = "".join(error for _, error in told)
    assert errors.count("Creating initial MLflow database tables") == 1
    assert "already exists" not in errors
    assert [file.name for file in folder.iterdir()] == ["mlflow.db"]


def test_after_a_kill_the_next_process_creates_it(tmp_path):
    draft = tmp_path / f"mlflow.db{DRAFT}"
    first = begin(f"sqlite:///{tmp_path}/mlflow.db")
    while not (draft.exists() and draft.stat().st_size):
        assert first.poll() is None
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert not (tmp_path / "mlflow.db").exists()
    out, error = (second := begin(f"sqlite:///{tmp_path}/mlflow.db")).communicate(timeout=300)
    assert (second.returncode, out) == (0, "1\n"), error
    assert [file.name for file in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_database_that_cannot_be_opened_is_told_within_seconds(tmp_path, monkeypatch):
    import mlflow.store.db.utils
    from sqlalchemy.exc import OperationalError

    def full(*_: object) -> None:
        raise OperationalError("CREATE TABLE", {}, Exception("database or disk is full"))

    monkeypatch.setattr(mlflow.store.db.utils.sqlalchemy, "inspect", full)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="disk is full"):
        make_place(f"sqlite:///{tmp_path}/new/m.db")
    assert time.monotonic() - began < 10
