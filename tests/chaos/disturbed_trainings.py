"""Trainings that are stopped or killed at random moments, also within a save, and started again."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from chaos_row import Row
from forking import Fork, ForkingPython
from training_inputs import settings_with
from warm_runs import STEPS

from steps import wire
from steps.artifacts import is_whole
from steps.params.distributed import Processes
from steps.params.training import CheckpointParams

STEP_COUNT = 24
TRAINING = {"max_steps": STEP_COUNT, "evaluation_strategy": "steps", "eval_steps": 6}
STOPPED = 128 + signal.SIGTERM
LONGEST = 300.0  # seconds for one training on a busy machine
MOST_BATCH = 4  # rows of a step, over all processes
WITHIN = 0.05  # seconds: about as long as a save or an evaluation of the tiny model takes
DISTURBED = "DISTURBED"  # in the environment of a training that is disturbed from within
# Precedes the code of a step: at a call of one of the Trainer's methods, signals begin to arrive.
FROM_WITHIN = """
import json, os, threading, time
from transformers import Trainer

asked = json.loads(os.environ["DISTURBED"])
method, calls = getattr(Trainer, asked["method"]), []

def disturb():
    for number, seconds in asked["signals"]:
        time.sleep(seconds)
        os.kill(os.getpid(), number)

def called(*given, **named):
    calls.append(1)
    if len(calls) == asked["call"]:
        threading.Thread(target=disturb, daemon=True).start()
    return method(*given, **named)

setattr(Trainer, asked["method"], called)
"""
# Methods of the Trainer within which a request to stop arrives, and how often each is called at most.
MOMENTS = {"get_train_dataloader": 1, "training_step": 1, "evaluate": STEP_COUNT // 6, "_save_checkpoint": STEP_COUNT}


@dataclass(frozen=True)
class Place:
    """The folder of one training, in how many processes it trains, and whether its checkpoints are kept at its end."""

    folder: Path
    count: int
    keep: str = "true"

    @property
    def tuned(self) -> Path:
        return self.folder / "tuned"

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text() if (self.folder / "log.txt").exists() else ""

    @property
    def weights(self) -> bytes:
        return (self.tuned / "model.safetensors").read_bytes()

    @property
    def steps(self) -> int:
        """The newest step whose loss was told."""
        return max(map(int, re.findall(rf"step (\d+)/{STEP_COUNT} +loss", self.log)), default=0)


@dataclass
class Trainings:
    """What trainings read, the Python that forks them, and what they give that nobody disturbed."""

    python: ForkingPython
    folder: Path
    model: Path
    data: Path

    def __post_init__(self) -> None:
        self.undisturbed: dict[int, tuple[bytes, float]] = {}

    def start(self, place: Place, disturbed: Mapping[str, Any] | None = None) -> Fork:
        """Start the training of a place; `disturbed` tells the method, the number of its call, and the signals."""
        place.folder.mkdir(parents=True, exist_ok=True)
        training = {**TRAINING, "per_device_train_batch_size": MOST_BATCH // place.count}
        kept = CheckpointParams(save_steps=1, keep_checkpoints=place.keep, resume_from_checkpoint="auto")
        settings = settings_with(training, processes=Processes(per_node=place.count), checkpoints=kept)
        words = ["finetune", "--settings", wire.dump(settings.model_dump(mode="json")), "--model", self.model]
        words += ["--data", self.data, "--tuned", place.tuned, "--checkpoints", place.folder / "kept"]
        words += ["--report", place.folder / "report.html"]
        environment = {**os.environ, "FINETUNE_ROOT": str(place.folder / "root"), DISTURBED: json.dumps(disturbed)}
        environment.pop("MLFLOW_TRACKING_URI", None)
        code = (FROM_WITHIN if disturbed else "") + STEPS
        log = place.folder / "log.txt"
        return self.python.start(code, *map(str, words), cwd=Path.cwd(), environment=environment, files=[log, log])

    def whole(self, count: int) -> tuple[bytes, float]:
        """Return the weights of a training in so many processes that nothing disturbs, and its seconds."""
        if count not in self.undisturbed:
            place, began = Place(self.folder / f"undisturbed-{count}", count), time.monotonic()
            assert self.start(place).wait(LONGEST) == 0, place.log
            self.undisturbed[count] = place.weights, time.monotonic() - began
        return self.undisturbed[count]

    def ends_as_undisturbed(self, place: Place, code: int) -> str:
        """Start a training again until it ends, and compare its weights; return what does not hold."""
        for _ in range(3):
            if code == 0:
                break
            code = self.start(place).wait(LONGEST)
        if code != 0:
            return f"started again, it ended with {code}: {place.log[-2000:]}"
        same = place.weights == self.whole(place.count)[0]
        shutil.rmtree(place.folder)
        return "" if same else "other weights than those of an undisturbed training"


Disturb = Callable[[Trainings, Place, random.Random], tuple[int, str]]


def trial_of(name: str, disturb: Disturb, count: int = 1) -> Callable[[Trainings, int, random.Random], str]:
    """Make a trial: a training is disturbed, which returns how it ended and what did not hold, and is started again."""

    def trial(trainings: Trainings, number: int, draw: random.Random) -> str:
        trainings.whole(count)
        place = Place(trainings.folder / f"{name}-{number}", count, draw.choice(["true", "auto"]))
        code, said = disturb(trainings, place, draw)
        return said or trainings.ends_as_undisturbed(place, code)

    return trial


def after_a_stop(place: Place, code: int) -> str:
    """Return what does not hold of a training that was asked to stop: 143, no result, at most one step lost."""
    if code == 0:
        return "" if is_whole(place.tuned) else "it ended with 0 and left no result"
    if code != STOPPED:
        return f"ended with {code}: {place.log[-2000:]}"
    if place.tuned.exists():
        return "it left a result"
    told = json.loads(place.log.strip().splitlines()[-1])
    kept = re.search(r"checkpoint-(\d+)", str(told["resume_from"]))
    if not kept and place.steps > 1:
        return f"step {place.steps} was done, and nothing is told to resume: {told}"
    return f"resumes from {kept[0]} after step {place.steps}" if kept and place.steps - int(kept[1]) > 1 else ""


def stopped(trainings: Trainings, place: Place, draw: random.Random) -> tuple[int, str]:
    """A request to stop at any moment."""
    training = trainings.start(place)
    time.sleep(draw.uniform(0.1, trainings.whole(place.count)[1]))
    training.send_signal(signal.SIGTERM)
    code = training.wait(LONGEST)
    return code, after_a_stop(place, code)


def stopped_within(trainings: Trainings, place: Place, draw: random.Random) -> tuple[int, str]:
    """A request to stop while the training begins, evaluates or saves."""
    method = draw.choice(list(MOMENTS))
    asked = {"method": method, "call": draw.randint(1, MOMENTS[method]),
             "signals": [(signal.SIGTERM, draw.uniform(0, WITHIN))]}  # fmt: skip
    code = trainings.start(place, asked).wait(LONGEST)
    return code, after_a_stop(place, code)


def killed_after_a_request(trainings: Trainings, place: Place, draw: random.Random) -> tuple[int, str]:
    """A request to stop that arrives in a save, and a kill within what follows."""
    signals = [(signal.SIGTERM, draw.uniform(0, WITHIN)), (signal.SIGKILL, draw.uniform(0, 2 * WITHIN))]
    asked = {"method": "_save_checkpoint", "call": draw.randint(1, STEP_COUNT), "signals": signals}
    code = trainings.start(place, asked).wait(LONGEST)
    return code, "" if code in (0, STOPPED, -signal.SIGKILL) else f"ended with {code}: {place.log[-2000:]}"


def killed_in_a_save(trainings: Trainings, place: Place, draw: random.Random) -> tuple[int, str]:
    """A kill while the state of the optimizer is saved, or the files that follow it."""
    asked = {"method": "_save_optimizer_and_scheduler", "call": draw.randint(1, STEP_COUNT),
             "signals": [(signal.SIGKILL, draw.uniform(0, WITHIN / 5))]}  # fmt: skip
    code = trainings.start(place, asked).wait(LONGEST)
    return code, "" if code in (0, -signal.SIGKILL) else f"ended with {code}: {place.log[-2000:]}"


def trainers(step: Fork) -> list[psutil.Process]:
    """Return the processes that train, in the order in which they were started."""
    with suppress(psutil.Error):
        children = psutil.Process(step.pid).children(recursive=True)
        return [one for one in children if "steps.finetune.process" in " ".join(one.cmdline())]
    return []


def one_of_two(number: int) -> Disturb:
    """Make a disturbance: after a random step, one of the processes that train gets a signal."""

    def disturb(trainings: Trainings, place: Place, draw: random.Random) -> tuple[int, str]:
        training, until, after = trainings.start(place), time.monotonic() + LONGEST, draw.randint(1, STEP_COUNT - 2)
        while place.steps < after and training.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        if len(found := trainers(training)) != place.count:
            training.kill()
            return training.wait(LONGEST), f"{len(found)} processes trained at step {place.steps}: {place.log[-1000:]}"
        with suppress(psutil.Error):
            draw.choice(found).send_signal(number)
        code = training.wait(LONGEST)
        return code, after_a_stop(place, code) if number == signal.SIGTERM else "" if code == 0 else place.log[-2000:]

    return disturb


ROWS = [
    Row(15, "a training is stopped", trial_of("stopped", stopped), "trainings", long=50),
    Row(16, "it begins, evaluates or saves", trial_of("within", stopped_within), "trainings", short=1, long=40),
    Row(17, "it is killed after a request to stop", trial_of("both", killed_after_a_request), "trainings", short=1,
        long=100),
    Row(18, "it is killed in a save", trial_of("save", killed_in_a_save), "trainings", short=1, long=100),
    Row(34, "one of two processes is killed", trial_of("lost", one_of_two(signal.SIGKILL), 2), "trainings", long=20),
    Row(35, "one of two processes is to stop", trial_of("asked", one_of_two(signal.SIGTERM), 2), "trainings", long=20),
]  # fmt: skip
