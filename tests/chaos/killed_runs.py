"""Whole runs on this machine, killed at random moments and started again."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from chaos_row import Row
from command_line import FINETUNE

KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
IN_A_RUN = 4  # kills of one run, before it may finish
MARK = "CHAOS_RUN"  # in the environment of a run and of everything that it starts
SETTINGS = {
    "number_of_gpu_to_use_finetuning": 0, "max_steps": 20, "total_train_batch_size": 4, "learning_rate": 3e-3,
    "max_per_device_train_batch_size": 4, "per_device_eval_batch_size": 16, "logging_steps": 2, "max_seq_length": 64,
    "evaluation_max_new_tokens": 4, "save_steps": 3,
}  # fmt: skip


@dataclass
class Runs:
    """Where runs are made, with what, and what one gave that nobody disturbed."""

    folder: Path
    given: dict[str, Any]
    database: Path
    """Of MLflow, without content."""
    weights: bytes = b""
    metrics: object = None
    seconds: float = 0.0

    def begun(self, name: str) -> Path:
        """Make the folder of a run."""
        root = self.folder / name
        root.mkdir()
        shutil.copyfile(self.database, root / "mlflow.db")
        return root

    def start(self, root: Path) -> subprocess.Popen:
        """Start a run, or go on with it."""
        words = [word for name, value in self.given.items() for word in ("-p", f"{name}={value}")]
        with open(root / "log.txt", "ab") as log:
            return subprocess.Popen(
                [*FINETUNE, "run", "chat_completion", "--root", str(root), *words], stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, MARK: str(root)},
            )  # fmt: skip

    def undisturbed(self) -> None:
        """Make the run that all others are compared with."""
        root, began = self.begun("undisturbed"), time.monotonic()
        assert self.start(root).wait(900) == 0, (root / "log.txt").read_text()[-3000:]
        self.seconds = time.monotonic() - began
        self.weights, self.metrics, _ = end_product(root)


def end_product(root: Path) -> tuple[bytes, object, int]:
    """Return the weights and metrics of the last result of a run, and the number of registered versions."""
    result = json.loads(max(root.glob("chat_completion-*/result.json"), key=os.path.getmtime).read_text())
    weights = Path(result["artifacts"]["model"], "model.safetensors").read_bytes()
    with sqlite3.connect(root / "mlflow.db") as database:
        versions = database.execute("select count(*) from model_versions").fetchone()[0]
    return weights, result["metrics"], int(versions)


def belonging(root: Path) -> list[psutil.Process]:
    """Return the processes of a run."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(root):
                found.append(process)
    return found


def killed(runs: Runs, trial: int, draw: random.Random) -> str:
    """A run is killed at random moments, as a whole or only its first process, and started again until it ends."""
    root = runs.begun(f"killed-{trial}")
    for _ in range(IN_A_RUN):
        process = runs.start(root)
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.5, runs.seconds))
        all_of_it = draw.random() < 0.7
        for one in belonging(root) if all_of_it else [process]:
            with suppress(psutil.Error):
                one.send_signal(signal.SIGKILL)
        process.wait(300)
    code = runs.start(root).wait(900)
    if code != 0:
        return f"code {code}: {(root / 'log.txt').read_text()[-2000:]}"
    weights, metrics, versions = end_product(root)
    shutil.rmtree(root, ignore_errors=True)
    if weights != runs.weights:
        return "other weights than those of an undisturbed run"
    if metrics != runs.metrics:
        return "other metrics than those of an undisturbed run"
    return "" if versions == 1 else f"{versions} registered versions"


ROWS = [Row(27, "a whole run is killed", killed, "runs", long=max(1, KILLS // IN_A_RUN))]
