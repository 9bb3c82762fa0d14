"""What register_model takes, with a registry of its own for every test, and what is then in the registry.

The fixtures here are known to every test (`pytest_plugins` in conftest.py).
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import build_model

from steps.artifacts import new_artifact, read_manifest
from steps.params.settings import RegistrationSettings

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS = {
    "base": {"loss": 4.0, "perplexity": 54.6, "exact_match": 0.0},
    "tuned": {"loss": 0.5, "perplexity": 1.65, "exact_match": 0.9},
    "rows": 100,
    "gate": {"metric": "loss", "base": 4.0, "tuned": 0.5, "min_value": None, "max_value": None,
             "must_beat_base": True, "passed": True, "reason": "Passed: loss 0.5 beats the base model's 4."},
}  # fmt: skip


def as_artifact(folder: Path, target: Path, **lineage: str) -> Path:
    with new_artifact(target, "model", lineage) as draft:
        shutil.copytree(folder, draft.path, dirs_exist_ok=True)
    return target


def flip_bit(folder: Path) -> None:
    """Change one bit of the weights."""
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def write_evaluation(target: Path, tuned: Path, /, **changes) -> Path:
    inputs = {"base": "b" * 64, "tuned": read_manifest(tuned).digest, "data": "d" * 64}
    with new_artifact(target, "evaluation", {"inputs": inputs}) as draft:
        draft.facts = {"versions": {"torch": "2.13.0+cpu", "transformers": "5.17.0"}}
        (draft / "metrics.json").write_text(json.dumps({**METRICS, **changes}))
    return target


@pytest.fixture(scope="session")
def empty_database(shared) -> Path:
    """An MLflow database without content: its migrations take seconds."""
    return shared.made("mlflow", migrate) / "mlflow.db"


def migrate(folder: Path) -> None:
    folder.mkdir()
    from mlflow import MlflowClient

    with contextlib.chdir(folder):  # MLflow's own first experiment keeps its files below the current folder
        MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db").search_experiments()


@pytest.fixture
def mlflow_store(empty_database, tmp_path) -> str:
    """The URI of a database of this test's own, without content."""
    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture
def mlflow_server(mlflow_store, tmp_path) -> Iterator[str]:
    """The URI of a real MLflow server that keeps artifacts itself, with a database of this test's own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", mlflow_store, "--artifacts-destination",
               str(tmp_path / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "2"]  # fmt: skip
    # Its processes for jobs of its own load as much as the server, and are used by nothing here.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        cwd=tmp_path,
    ) as server:  # fmt: skip
        try:
            until = time.monotonic() + 300
            while not answers(f"http://127.0.0.1:{port}/health"):
                assert time.monotonic() < until
                assert server.poll() is None
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@pytest.fixture(scope="session")
def models(shared, tiny_model) -> dict[str, Path]:
    """A base model and a tuned one whose likeliest tokens are clear."""
    return {
        "base": shared.made("registered base", lambda folder: as_artifact(tiny_model, folder, source="tiny")),
        "tuned": shared.made("registered tuned", lambda folder: build_model(folder, initializer_range=0.4)),
    }


@pytest.fixture
def world(tmp_path, models, mlflow_store, monkeypatch) -> dict[str, Path]:
    """Everything that register_model takes, in a folder of its own, with its own registry."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_store)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tuned = as_artifact(models["tuned"], tmp_path / "tuned")
    with new_artifact(tmp_path / "merged", "model") as draft:
        draft.same_as = "tuned"
    return {
        "tuned": tuned,
        "merged": tmp_path / "merged",
        "evaluation": write_evaluation(tmp_path / "evaluation", tuned),
        "registration": tmp_path / "registration",
    }


def settings(**changes) -> RegistrationSettings:
    given = {
        "pipeline": "chat_completion",
        "task": "chat_completion",
        "registration": {"registered_model_name": "normaliser"},
        "max_new_tokens": 8,
        "lineage": {
            "model": {"uri": "org/base", "digest": "c0ffee"},
            "data": {"train": {"uri": "s3://bucket/train.jsonl", "digest": "abc"}},
            "parameters": {"learning_rate": 3e-3, "train_file_path": "s3://bucket/train.jsonl"},
        },
    }
    return RegistrationSettings(**{**given, **changes})


def client() -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])


def holder() -> str:
    """The version that the alias points at."""
    return str(client().get_model_version_by_alias("normaliser", "champion").version)


def content() -> tuple[int, int, int]:
    """Registered models, versions and runs."""
    runs = client().search_runs([experiment.experiment_id for experiment in client().search_experiments()])
    return len(client().search_registered_models()), len(client().search_model_versions()), len(runs)


def registered(world: dict[str, Path]) -> dict[str, str]:
    return json.loads((world["registration"] / "registration.json").read_text())
