"""Trainings in several processes, one after the other in the same ones, and how they differ from others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import pytest
from forking import ForkingPython
from trained_kinds import Kind
from training_inputs import train

from steps.finetune import step
from steps.finetune.training import Training, strategy_of
from steps.launch.deepspeed_config import BUILT_IN
from steps.params.settings import FinetuneSettings

WAYS = {
    "ddp": {"processes": {"strategy": "ddp"}},
    "fsdp": {"processes": {"strategy": "fsdp"}},
    "zero2": {"deepspeed": {**deepcopy(BUILT_IN["2"]), "zero_force_ds_cpu_optimizer": False}},
    "zero3": {"deepspeed": {**deepcopy(BUILT_IN["3"]), "zero_force_ds_cpu_optimizer": False}},
}
# What accelerate says of a model that is shared like this.
SHARED = {"ddp": "MULTI_CPU", "fsdp": "FSDP", "ZeRO-2": "DEEPSPEED", "ZeRO-3": "DEEPSPEED"}
IN_FORKS = """
import pathlib, sys, several_trainings
several_trainings.together(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
"""
# A softmax does not depend on these, so their gradients are rounding errors, which Adam scales up.
WITHOUT_EFFECT = ("key.bias", "qa_outputs.bias")


class Caught(Exception):
    """Ends finetune where it would start processes."""


def two_nodes(jobs: Path) -> str:
    """Run two agents with the variables that Kubeflow Trainer sets, each with one process; tell what ended badly."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    agents = []
    for rank in ("0", "1"):
        given = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": rank, "PET_MASTER_ADDR": "127.0.0.1",
                 "PET_MASTER_PORT": port, "PYTHONPATH": str(Path(__file__).parent)}  # fmt: skip
        command = [sys.executable, "-m", "steps.launch.node", "-m", "several_trainings", str(jobs)]
        agents.append(subprocess.Popen(command, env={**os.environ, **given}))
    codes = [agent.wait(300) for agent in agents]
    return f"ended with {codes}" if any(codes) else ""


def in_forks(loaded: ForkingPython, jobs: Path, count: int) -> str:
    """Run the jobs in forks of one process; tell what ended badly."""
    done = loaded.ended(IN_FORKS, str(jobs), str(count), cwd=jobs, environment=dict(os.environ))
    return f"ended with {done.returncode}: {done.stderr[-3000:]}" if done.returncode else ""


def train_all(jobs: dict[str, tuple[Kind, FinetuneSettings]], out: Path, loaded: ForkingPython | None) -> None:
    """Train in the same processes, one after the other: forks of `loaded`, or those of two nodes."""

    def catch(training: Training) -> None:
        (out / "jobs" / f"{training.tuned.parent.name}.json").write_text(training.as_text())
        raise Caught

    (out / "jobs").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(step, "train_in_processes", catch)
        for name, (kind, settings) in jobs.items():
            with pytest.raises(Caught):
                train(settings, kind.model, kind.data, out / name)
    (count,) = {settings.processes.count for _, settings in jobs.values()}
    ended = in_forks(loaded, out / "jobs", count) if loaded else two_nodes(out / "jobs")
    told = [file.read_text() for file in (out / "jobs").glob("*.failed-*")]
    assert not ended, "\n".join([*told, ended])
    shared = {name: {file.read_text() for file in (out / "jobs").glob(f"{name}.shared-*")} for name in jobs}
    assert shared == {name: {SHARED[strategy_of(settings)]} for name, (_, settings) in jobs.items()}


def history(out: Path) -> dict:
    return json.loads((out / "tuned/history.json").read_text())


def tensors(out: Path) -> dict:
    from safetensors.numpy import load_file

    return load_file(next((out / "tuned").glob("*.safetensors")))


def differences(ours: Path, theirs: Path, losses: float = 1e-5, weights: float = 1e-4) -> list[str]:
    """Say how losses, steps or weights of a training differ from those of another one; empty if they do not."""
    mine, plain = history(ours), history(theirs)
    found = [name for name in ("steps", "parameters") if mine[name] != plain[name]]
    for what in ("points", "evaluations"):
        one, other = ([point["loss"] for point in told[what]] for told in (mine, plain))
        if one != pytest.approx(other, abs=losses):
            found.append(f"{what}: {one} instead of {other}")
    one, other = tensors(ours), tensors(theirs)
    found += sorted(one.keys() ^ other.keys())
    compared = [name for name in one.keys() & other.keys() if not name.endswith(WITHOUT_EFFECT)]
    return found + [name for name in compared if one[name] != pytest.approx(other[name], abs=weights)]
