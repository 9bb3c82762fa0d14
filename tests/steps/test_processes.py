"""Several processes train as one process with the same batch does: every trainer, every way to share a model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
from conftest import build_model
from trained_kinds import KINDS, Kind
from training_inputs import as_imported, settings_with, train, write_ids

from steps.finetune import step
from steps.finetune.training import Training
from steps.launch.deepspeed_config import BUILT_IN
from steps.launch.several_processes import run_processes
from steps.params.distributed import Processes
from steps.params.lora import LoraParams
from steps.params.quantisation import QuantisationParams
from steps.params.settings import FinetuneSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

BATCH = 6
WAYS = {
    "ddp": {"processes": {"strategy": "ddp"}},
    "fsdp": {"processes": {"strategy": "fsdp"}},
    "zero2": {"deepspeed": {**deepcopy(BUILT_IN["2"]), "zero_force_ds_cpu_optimizer": False}},
    "zero3": {"deepspeed": {**deepcopy(BUILT_IN["3"]), "zero_force_ds_cpu_optimizer": False}},
}
# ORPO's loss has a mean over tokens and one over rows; processes share it by rows.
TOLERANCES = {"orpo": (1e-3, 1e-2)}
# A softmax does not depend on these, so their gradients are rounding errors, which Adam scales up.
WITHOUT_EFFECT = ("key.bias", "qa_outputs.bias")


class Caught(Exception):
    """Ends finetune where it would start processes."""


@pytest.fixture(scope="session")
def kinds(tmp_path_factory) -> dict[str, Kind]:
    folder = tmp_path_factory.mktemp("kinds")
    return {name: build(folder / name) for name, build in KINDS.items()}


@pytest.fixture(scope="session")
def alone(kinds, tmp_path_factory) -> dict[str, Path]:
    """Train each kind in one process."""
    out = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FINETUNE_ROOT", str(out / "root"))
        patched.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, kind in kinds.items():
            train(kind.with_processes(BATCH), kind.model, kind.data, out / name)
    return {name: out / name for name in kinds}


def two_nodes(words: list[str]) -> list[int]:
    """Run two agents with the variables that Kubeflow Trainer sets, each with one process; give codes other than 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    agents = []
    for rank in ("0", "1"):
        given = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_NODE_RANK": rank, "PET_MASTER_ADDR": "127.0.0.1",
                 "PET_MASTER_PORT": port}  # fmt: skip
        command = [sys.executable, "-m", "steps.launch.node", "-m", "several_trainings", *words]
        agents.append(subprocess.Popen(command, env={**os.environ, **given}))
    return [code for agent in agents if (code := agent.wait(300))]


def train_all(
    jobs: dict[str, tuple[Kind, FinetuneSettings]], count: int, out: Path, monkeypatch, nodes: bool = False
) -> None:
    """Train in the same `count` processes, one after the other; or in those of two nodes."""

    def catch(training: Training) -> None:
        (out / "jobs" / f"{training.tuned.parent.name}.json").write_text(training.as_text())
        raise Caught

    (out / "jobs").mkdir(parents=True)
    monkeypatch.setattr(step, "train_in_processes", catch)
    for name, (kind, settings) in jobs.items():
        with pytest.raises(Caught):
            train(settings, kind.model, kind.data, out / name)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    words = [str(out / "jobs")]
    ended = two_nodes(words) if nodes else run_processes("several_trainings", words, count).failed
    told = [file.read_text() for file in (out / "jobs").glob("*.failed-*")]
    assert not ended, "\n".join(told)


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


@pytest.mark.parametrize("way", [*WAYS, "two nodes"])
def test_two_processes_train_as_one_does(kinds, alone, tmp_path, monkeypatch, way):
    jobs, nodes = {}, way == "two nodes"
    for name, kind in kinds.items():
        given = {**WAYS.get(way, {})}
        layout = {"nodes": 2} if nodes else {"per_node": 2}
        processes = Processes(**layout, **given.pop("processes", {}))
        jobs[name] = (kind, kind.with_processes(BATCH, processes).model_copy(update=given))
    train_all(jobs, 2, tmp_path, monkeypatch, nodes)
    assert all(history(tmp_path / name)["processes"]["count"] == 2 for name in kinds)
    found = {name: differences(tmp_path / name, alone[name], *TOLERANCES.get(name, ())) for name in kinds}
    assert {name: some for name, some in found.items() if some} == {}


ADAPTERS = {
    "lora": {"lora": LoraParams(apply_lora=True)},
    "dora": {"lora": LoraParams(apply_lora=True, use_dora=True)},
    "four-bits": {"lora": LoraParams(apply_lora=True), "quantisation": QuantisationParams(load_in_4bit=True)},
}


@pytest.mark.parametrize("way", WAYS)
def test_adapters_train_in_several_processes(kinds, tmp_path, monkeypatch, way):
    wanted = {("sft", "lora"), ("dpo", "lora"), ("classification", "dora"), ("seq2seq", "lora")}
    if way in ("ddp", "zero2"):
        wanted.add(("sft", "four-bits"))
    jobs, plain = {}, {}
    for kind, adapter in sorted(wanted):
        name = f"{kind}-{adapter}"
        given = {**WAYS[way]}
        processes = Processes(per_node=2, **given.pop("processes", {}))
        settings = kinds[kind].with_processes(BATCH, processes, max_steps=5)
        jobs[name] = (kinds[kind], settings.model_copy(update={**given, **ADAPTERS[adapter]}))
        alone = kinds[kind].with_processes(BATCH, max_steps=5).model_copy(update=ADAPTERS[adapter])
        train(alone, kinds[kind].model, kinds[kind].data, tmp_path / "alone" / name)
        plain[name] = tmp_path / "alone" / name
    train_all(jobs, 2, tmp_path / "ours", monkeypatch)
    found = {name: differences(tmp_path / "ours" / name, plain[name], 1e-4, 1e-3) for name in jobs}
    assert {name: some for name, some in found.items() if some} == {}


@pytest.mark.parametrize(("rows", "count", "batch"), [(13, 3, 6), (7, 3, 3), (5, 4, 4), (2, 3, 3)])
def test_rows_that_no_number_divides_are_trained_once(tmp_path, monkeypatch, shared, rows, count, batch):
    model = as_imported(shared.made("tiny", build_model), tmp_path / "model")
    ids = [[5 + number, 6 + number, 7 + 2 * number, 8] for number in range(rows)]
    data = write_ids(tmp_path / "data", train=ids, validation=ids[: rows - 1])
    settings = partial(settings_with, {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 2})
    train(settings(), model, data, tmp_path / "alone")
    ours = settings_with(
        {"per_device_train_batch_size": batch // count, "per_device_eval_batch_size": 2},
        processes=Processes(per_node=count),
    )
    train_all({"ours": (Kind(model, data, None), ours)}, count, tmp_path, monkeypatch)
    assert differences(tmp_path / "ours", tmp_path / "alone") == []
    assert history(tmp_path / "ours")["tokens"] == history(tmp_path / "alone")["tokens"] == 2 * 4 * rows
