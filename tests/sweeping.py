"""Sweeps over tiny models: what is swept, a driver as a process, and what must be equal after a kill."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from pipelines.sweeping.described import describe
from pipelines.sweeping.folder import SweepFolder
from pipelines.sweeping.handle import Sweep, begin
from pipelines.sweeping.run import drive

SETTINGS = {
    "number_of_gpu_to_use_finetuning": 0, "num_train_epochs": 2, "total_train_batch_size": 4,
    "max_per_device_train_batch_size": 4, "per_device_eval_batch_size": 16, "logging_steps": 2, "max_seq_length": 64,
    "evaluation_max_new_tokens": 4, "gate_metric": "loss", "apply_lora": True,
}  # fmt: skip
MARK = "SWEEP_OF_A_TEST"  # in the environment of a driver and of everything that it starts


def begun(root: Path, given: dict, space: dict | None = None, pipeline: str = "chat_completion", **more) -> SweepFolder:
    """Begin a sweep named s; `more` are options of `describe`."""
    return begin(describe(pipeline, given, space=space, **{"name": "s", **more}), root)


def swept(root: Path, given: dict, space: dict | None = None, **more) -> Sweep:
    """Run a sweep in this process; it has to succeed."""
    folder = begun(root, given, space, **more)
    told: list[str] = []
    outcome = drive(folder, told.append)
    assert outcome["error"] is None, [outcome["error"]["problems"], *told]
    return Sweep(folder)


def driver(folder: SweepFolder) -> subprocess.Popen:
    """Start a driver in a process group of its own."""
    with open(folder.root / "driver.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.sweeping.run", str(folder.path)], stdout=output, stderr=output,
            start_new_session=True, env={**os.environ, MARK: str(folder.root)},
        )  # fmt: skip


def ended(folder: SweepFolder) -> int:
    """Start a driver, and return its exit code."""
    return driver(folder).wait(timeout=500)


def events(folder: SweepFolder) -> int:
    """Count the lines of all logs and curves so far."""
    patterns = ("*.txt", "trials/*/*.jsonl", "trials/*/*.txt", "models/*.log", "data/*.log", "best/*/*.log")
    files = [file for pattern in patterns for file in folder.path.glob(pattern)]
    return sum(file.read_bytes().count(b"\n") for file in files)


def when(folder: SweepFolder, process: subprocess.Popen, reached) -> bool:
    """Wait until `reached()`; return whether the process still runs then."""
    while process.poll() is None and not reached():
        time.sleep(0.02)
    return process.poll() is None


def belonging(folder: SweepFolder) -> list[psutil.Process]:
    """Return the processes that a driver of this sweep started, and itself."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder.root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def left(folder: SweepFolder, seconds: float = 120) -> list[psutil.Process]:
    """Return what still runs after so many seconds."""
    limit = time.monotonic() + seconds
    while (found := belonging(folder)) and time.monotonic() < limit:
        time.sleep(0.1)
    return found


def trainer_of(folder: SweepFolder, trial: int) -> psutil.Process:
    """Return the process that trains a trial: of those with its log open, the one that started last."""
    log = str(folder.path / f"trials/{trial:04}/log.txt")
    holders = [one for one in belonging(folder) if any(_points_to(one, number, log) for number in (1, 2))]
    return max(holders, key=lambda one: one.create_time())


def _points_to(process: psutil.Process, number: int, file: str) -> bool:
    try:
        return os.readlink(f"/proc/{process.pid}/fd/{number}") == file
    except OSError:
        return False


def table(sweep: Sweep) -> list[tuple]:
    """Return what must be the same, however often the sweep was killed."""
    return lasting(sweep.facts)


def lasting(facts: dict) -> list[tuple]:
    """Return of each trial what is the same in every sweep of these trials: no times, places and runs of MLflow."""
    names = ("number", "parameters", "state", "score", "metrics", "curve", "steps", "reason", "best")
    return [tuple(trial.get(name) for name in names) for trial in facts["trials"]]


def finished_in(folder: SweepFolder) -> list[int]:
    """Return how often each trial was measured to its end."""
    return [len(re.findall(r"trial \d+: .* on the validation rows\n", log.read_text()))
            for log in sorted(folder.path.glob("trials/*/log.txt"))]  # fmt: skip


def versions(root: Path) -> list[tuple[str, str]]:
    """Return the registered versions."""
    from mlflow import MlflowClient

    found = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db").search_model_versions()
    return [(version.name, str(version.version)) for version in found]


def tracked(root: Path) -> list[tuple[str, str]]:
    """Return name and status of all runs in MLflow."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{root}/mlflow.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
    return sorted((run.info.run_name, run.info.status) for run in runs)


def preparations(folder: SweepFolder) -> tuple[int, int]:
    """Return how often a model was imported, and how often data were prepared, by the logs."""
    return tuple(sum(file.read_text().count(f"▸ {step}") for file in folder.path.glob(f"{kind}/*.log"))
                 for kind, step in (("models", "import-model"), ("data", "prepare-data")))  # fmt: skip


def weights(folder: Path) -> dict[str, bytes]:
    """Return the weights of a model or an adapter."""
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def facts_of(folder: SweepFolder) -> dict:
    """Return sweep.json."""
    return json.loads((folder.path / "sweep.json").read_text())
