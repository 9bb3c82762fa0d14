"""A training in several processes that is killed, stopped, or fails goes on where it was, or tells why."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import psutil
import pytest
from forking import Fork
from grids import long_but
from trained_together import differences
from training_inputs import settings_with, train

from steps.errors import NumericError, OutOfResources, Preempted, UserError
from steps.finetune.checkpoints import folder_for
from steps.launch.deepspeed_config import BUILT_IN
from steps.launch.several_processes import Ended, Outcome, run_processes
from steps.params.distributed import Processes
from steps.params.settings import FinetuneSettings
from steps.params.training import CheckpointParams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

TRAINING = {"max_steps": 24, "evaluation_strategy": "steps", "eval_steps": 6, "per_device_train_batch_size": 2}
KEPT = CheckpointParams(save_steps=2, keep_checkpoints="true", resume_from_checkpoint="auto")


def asked(count: int = 2, **changes) -> FinetuneSettings:
    return settings_with(TRAINING, processes=Processes(per_node=count), checkpoints=KEPT, **changes)


@pytest.fixture
def start(start, model, data):
    """Start the step as a process of its own."""

    def begin(settings: FinetuneSettings, out: Path, **variables: str) -> Fork:
        return start(settings, model, data, out, **variables)

    return begin


def trainers(step: Fork) -> list[psutil.Process]:
    """Give the processes that train."""
    try:
        children = psutil.Process(step.pid).children(recursive=True)
        return [one for one in children if "steps.finetune.process" in " ".join(one.cmdline())]
    except psutil.Error:
        return []


def wait_for(what, step: Fork, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not what() and step.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def steps_in(out: Path) -> int:
    return (out / "log.txt").read_text().count("step ") if (out / "log.txt").exists() else 0


def weights(out: Path) -> bytes:
    return (out / "tuned/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def _unbroken() -> dict[str, bytes]:
    return {}


@pytest.fixture
def unbroken(_unbroken, forked, model, data, tmp_path) -> bytes:
    """The weights of a training in two processes that nothing disturbed."""
    if "bytes" not in _unbroken:
        train(asked(), model, data, tmp_path / "unbroken")
        _unbroken["bytes"] = weights(tmp_path / "unbroken")
        for folder in (tmp_path / "root/checkpoints").rglob("checkpoint-*"):
            subprocess.run(["rm", "-r", str(folder)], check=True)
    return _unbroken["bytes"]


@pytest.mark.long
@pytest.mark.parametrize("victim", ["first", "second", "step"])
def test_a_killed_training_ends_as_an_undisturbed_one(start, unbroken, tmp_path, victim):
    out, draw = tmp_path / "out", random.Random(victim)
    step = start(asked(), out)
    for _ in range(2):
        after = steps_in(out) + draw.randint(1, 8)
        wait_for(lambda: steps_in(out) >= after and len(trainers(step)) == 2, step)  # noqa: B023
        if step.poll() is not None:
            break
        time.sleep(draw.random() * 0.2)
        if victim == "step":
            orphans = trainers(step)
            step.kill()
            step.wait()
            step = start(asked(), out)  # at once: it waits until the processes of the first one have gone
            psutil.wait_procs(orphans, timeout=300)
        elif len(found := trainers(step)) == 2:
            found[victim == "second"].kill()
    assert step.wait(400) == 0, (out / "log.txt").read_text()
    assert "going on from" in (out / "log.txt").read_text() or victim == "step"
    assert weights(out) == unbroken


@pytest.mark.parametrize("whom", long_but(["second"], ["step", "second"]))
def test_a_training_that_is_stopped_saves_in_all_processes_and_goes_on(start, unbroken, tmp_path, whom):
    out = tmp_path / "out"
    step = start(asked(), out)
    wait_for(lambda: steps_in(out) >= 5, step)
    if whom == "step":
        step.send_signal(signal.SIGTERM)
    else:
        trainers(step)[1].send_signal(signal.SIGTERM)
    assert step.wait(240) == 143, (out / "log.txt").read_text()
    assert not (out / "tuned").exists()
    told = json.loads((out / "log.txt").read_text().strip().splitlines()[-1])
    assert Path(told["resume_from"], "manifest.json").exists()
    assert start(asked(), out).wait(400) == 0
    assert weights(out) == unbroken


@pytest.mark.parametrize("moment", long_but([1.0], [0.0, 1.0, 3.0, 5.0, 7.0]))
def test_a_training_can_be_stopped_while_its_processes_begin(start, tmp_path, moment):
    out = tmp_path / "out"
    step = start(asked(), out)
    wait_for(lambda: trainers(step), step)
    time.sleep(moment)
    step.send_signal(signal.SIGTERM)
    assert step.wait(180) == 143, (out / "log.txt").read_text()
    assert not (out / "tuned").exists()


def test_a_process_that_does_not_end_when_it_is_stopped_is_not_started_again(model, data, tmp_path, monkeypatch):
    """As one that waits in a library for a process that has ended: the agent kills it."""
    from steps.finetune import processes

    asked_for = Outcome([Ended(0, -signal.SIGTERM, 1.0), Ended(1, -signal.SIGKILL, 2.0)], True)
    monkeypatch.setattr(processes, "run_processes", lambda *_: asked_for)
    with pytest.raises(Preempted, match="TRAIN-E1431"):
        train(asked(), model, data, tmp_path / "out")
    assert not (tmp_path / "out/tuned").exists()


def test_the_error_of_a_process_is_the_error_of_the_step(forked, model, data, tmp_path):
    settings = settings_with({**TRAINING, "learning_rate": 1e30}, processes=Processes(per_node=2))
    with pytest.raises(NumericError, match="TRAIN-E0601"):
        train(settings, model, data, tmp_path / "out")
    assert not (tmp_path / "out/tuned").exists()


def test_how_a_process_ended_is_told(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    first, *others = run_processes("ending_process", ["9"], 2).failed
    assert (first.rank, first.code, first.killed) == (1, -9, True)
    assert not any(one.killed for one in others)  # which the agent stopped
    first, *_ = run_processes("ending_process", ["exit"], 2).failed
    assert (first.rank, first.code, first.killed) == (1, 6, False)
    assert run_processes("ending_process", ["well"], 2) == Outcome([], False)


@pytest.mark.long
def test_a_training_that_stands_still_is_ended_and_tells_where(start, tmp_path):
    out = tmp_path / "out"
    step = start(asked(), out, FINETUNE_COLLECTIVE_SECONDS="6")
    wait_for(lambda: steps_in(out) >= 3, step)
    trainers(step)[1].suspend()
    assert step.wait(240) == 4, (out / "log.txt").read_text()
    assert "TRAIN-E0431" in (out / "log.txt").read_text()
    assert "most recent call first" in (out / "log.txt").read_text()


@pytest.mark.long
def test_two_nodes_train_as_one_process(start, model, data, tmp_path):
    """Two agents with the variables that Kubeflow Trainer sets."""
    from steps.finetune import processes

    jobs = []
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def on_nodes(module: str, words: list[str], per_node: int, _node=None) -> Outcome:
        assert per_node == 1
        for rank in range(2):
            given = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": str(rank),
                     "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}  # fmt: skip
            command = [sys.executable, "-m", "steps.launch.node", "-m", module, *words]
            jobs.append(subprocess.Popen(command, env={**os.environ, **given}))
        return Outcome([job for job in jobs if job.wait(180)], False)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(processes, "run_processes", on_nodes)
        several = settings_with(TRAINING, processes=Processes(per_node=1, nodes=2))
        ours = train(several, model, data, tmp_path / "ours")
    whole = {**TRAINING, "per_device_train_batch_size": 4}
    alone = train(settings_with(whole), model, data, tmp_path / "alone")
    assert differences(tmp_path / "ours", tmp_path / "alone") == []
    assert len(ours["points"]) == len(alone["points"]) == TRAINING["max_steps"]
    assert ours["processes"] == {"count": 2, "nodes": 2, "strategy": "ddp"}


@pytest.mark.parametrize("fsdp", long_but([True], [False, True]), ids=["ddp", "fsdp"])
def test_a_training_goes_on_with_another_number_of_processes(forked, model, data, tmp_path, fsdp):
    strategy = "fsdp" if fsdp else "ddp"
    parts = {2: {"per_device_train_batch_size": 2}, 4: {"per_device_train_batch_size": 1}}

    def with_count(count: int, most: int) -> FinetuneSettings:
        training = {**TRAINING, **parts[count], "max_steps": most, "lr_scheduler_type": "constant"}
        return settings_with(training, processes=Processes(per_node=count, strategy=strategy), checkpoints=KEPT)

    whole = train(with_count(2, 12), model, data, tmp_path / "whole")
    inputs = {"model": json.loads((model / "manifest.json").read_text())["digest"],
              "data": json.loads((data / "manifest.json").read_text())["digest"]}  # fmt: skip
    folder = folder_for(with_count(4, 12), inputs, tmp_path / "none")
    assert folder.path == folder_for(with_count(2, 12), inputs, tmp_path / "none").path
    for late in (10, 12):
        subprocess.run(["rm", "-r", str(folder.path / f"checkpoint-{late}")], check=True)
    (folder.path / "finished.json").unlink()
    ours = train(with_count(4, 12), model, data, tmp_path / "ours")
    assert ours["resumed_from"] == 8
    assert [p["loss"] for p in ours["points"]] == pytest.approx([p["loss"] for p in whole["points"]], abs=1e-5)


def test_memory_that_runs_out_in_one_process_gives_a_smaller_batch(forked, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setenv("TOO_MANY_ROWS", "2")
    from steps.finetune import processes

    monkeypatch.setattr(processes, "MODULE", "crowded_process")
    fixed = settings_with({**TRAINING, "max_steps": 4}, processes=Processes(per_node=2))
    with pytest.raises(OutOfResources, match="TRAIN-E0501"):
        train(fixed, model, data, tmp_path / "fixed")
    found = settings_with({**TRAINING, "max_steps": 4, "auto_find_batch_size": True}, processes=Processes(per_node=2))
    ours = train(found, model, data, tmp_path / "found")
    assert ours["batch"] == {"per_device": 1, "accumulated": 2}


STOPPED = """
import os, signal, sys, threading
import torch.distributed.launcher.api
from steps.launch.deepspeed_config import BUILT_IN
from steps.launch.several_processes import run_processes
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGTERM)).start()
print(sorted({one.code for one in run_processes("ending_process", ["wait"], 2).failed}))
"""


@pytest.mark.parametrize("late", long_but(["0.3"], ["0.05", "0.3", "1.0"]))
def test_a_request_to_stop_before_there_are_processes_is_not_lost(late):
    paths = os.pathsep.join(str(Path(__file__).parents[number]) for number in (1, 2))
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, late], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
        timeout=180,
    )  # fmt: skip
    assert done.stdout == f"[{-signal.SIGTERM}]\n", done.stderr


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"strategy": "ddp"}, {"strategy": "fsdp"}, "a checkpoint of one copy, 2 processes; expected one of fsdp, 2"),
        ({"strategy": "fsdp"}, {"strategy": "ddp"}, "a checkpoint of fsdp, 2 processes; expected one of one copy, 2"),
    ],
)
def test_a_checkpoint_of_another_strategy_is_refused(forked, model, data, tmp_path, before, after, told):
    def with_strategy(given: dict) -> FinetuneSettings:
        training = {**TRAINING, "max_steps": 4, "evaluation_strategy": "no"}
        return settings_with(training, processes=Processes(per_node=2, **given), checkpoints=KEPT)

    train(with_strategy(before), model, data, tmp_path / "before")
    with pytest.raises(UserError, match=f"CHECKPOINT-E0104.*{told}"):
        train(with_strategy(after), model, data, tmp_path / "after")


def test_deepspeed_goes_on_with_as_many_processes_only(forked, model, data, tmp_path):
    zero = {**deepcopy(BUILT_IN["2"]), "zero_force_ds_cpu_optimizer": False}

    def with_count(count: int) -> FinetuneSettings:
        training = {**TRAINING, "max_steps": 4, "per_device_train_batch_size": 4 // count}
        return settings_with(training, processes=Processes(per_node=count), checkpoints=KEPT, deepspeed=zero)

    train(with_count(2), model, data, tmp_path / "two")
    with pytest.raises(UserError, match=r"CHECKPOINT-E0104.*ZeRO-2, 2 processes; expected one of ZeRO-2, 1 process"):
        train(with_count(1), model, data, tmp_path / "one")
