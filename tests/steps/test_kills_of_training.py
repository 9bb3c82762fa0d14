"""Trainings in one and two processes that are killed or stopped at random moments, 40 times each.

A kill goes to the step, to one of the processes that train, or to all of them. Started again, a training ends with the
weights of an undisturbed one, bit for bit. A training that is stopped ends with 143 and leaves no result; one whose
result was whole when the request came ends with 0.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from training_inputs import settings_with

from steps.params.distributed import Processes
from steps.params.training import CheckpointParams

pytestmark = pytest.mark.long

TRIALS = 40
SEED = 17
KEPT = CheckpointParams(save_steps=1, keep_checkpoints="true", resume_from_checkpoint="auto")
LONGEST = {1: 16.0, 2: 30.0}  # seconds of an undisturbed training that moments are drawn from, also on a busy machine


@dataclass(frozen=True)
class Place:
    """The folder of one training, and what it reads."""

    folder: Path
    model: Path
    data: Path
    count: int

    def start(self) -> subprocess.Popen:
        """Start the step as a process of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        training = {"max_steps": 60, "evaluation_strategy": "steps", "eval_steps": 10,
                    "per_device_train_batch_size": 4 // self.count}  # fmt: skip
        settings = settings_with(training, processes=Processes(per_node=self.count), checkpoints=KEPT)
        (self.folder / "settings.json").write_text(settings.model_dump_json())
        words = ["--settings", f"@{self.folder}/settings.json", "--model", self.model, "--data", self.data]
        words += ["--tuned", self.tuned, "--checkpoints", self.folder / "kept", "--report", self.folder / "report.html"]
        with open(self.log, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "steps", "finetune", *map(str, words)], stdout=log, stderr=log,
                env={**os.environ, "FINETUNE_ROOT": str(self.folder / "root")},
            )  # fmt: skip

    @property
    def tuned(self) -> Path:
        return self.folder / "tuned"

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    def weights(self) -> bytes:
        return (self.tuned / "model.safetensors").read_bytes()


@pytest.fixture
def place(model, data, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda name, count: Place(tmp_path / name, model, data, count)


@pytest.fixture
def undisturbed(place) -> dict[int, tuple[bytes, float]]:
    """The weights and the seconds of trainings in one and two processes that nothing disturbed."""
    told = {}
    for count in (1, 2):
        started, one = time.monotonic(), place(f"undisturbed-{count}", count)
        assert one.start().wait() == 0, one.log.read_text()
        told[count] = one.weights(), min(time.monotonic() - started, LONGEST[count])
    return told


def family(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.Error:
        return []


def kill(process: subprocess.Popen, draw: random.Random) -> None:
    found = family(process)
    whom = draw.choice(["step", "all", "one"])
    victims = {"step": found[:1], "all": found, "one": [draw.choice(found[1:] or found[:1])] if found else []}[whom]
    for one in victims:
        with suppress(psutil.Error):
            one.kill()
    process.wait(300)


def stop(process: subprocess.Popen, one: Place) -> None:
    process.send_signal(signal.SIGTERM)
    code = process.wait(300)
    told = one.log.read_text()
    # Python takes a second to begin, in which the signal ends it by itself: a shell calls that 143 as well.
    assert code in (0, 143) or (code == -signal.SIGTERM and not told), (code, told)
    assert one.tuned.exists() == (code == 0), (code, told)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_training_that_is_disturbed_at_random_moments_ends_as_an_undisturbed_one(how, place, undisturbed):
    draw = random.Random(f"{how} {SEED}")
    failed, disturbed = [], 0
    for trial in range(TRIALS):
        count = 1 + trial % 2
        whole, seconds = undisturbed[count]
        one = place(f"trial-{trial}", count)
        process = one.start()
        time.sleep(draw.uniform(1.0, seconds))
        if process.poll() is None:
            disturbed += 1
            kill(process, draw) if how == "kill" else stop(process, one)
        for _ in range(3):
            if process.poll() == 0:
                break
            process = one.start()
            process.wait(300)
        if process.poll() != 0 or one.weights() != whole:
            failed.append((trial, count, process.poll(), one.log.read_text()[-2000:]))
        shutil.rmtree(one.folder)
    assert failed == []
    assert disturbed > TRIALS / 2
