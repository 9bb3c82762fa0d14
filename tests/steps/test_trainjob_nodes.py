"""The command of a TrainJob runs on two nodes as the Trainer and the machines run it: real processes that meet."""

import json
import sys
import threading
import time
from dataclasses import replace

import pytest
import yaml
from trainer_machines import QUICK
from training_inputs import settings_with, train

from steps.artifacts import read_manifest
from steps.errors import NumericError, StepError, UserError
from steps.finetune import nodes
from steps.finetune.step import finetune
from steps.launch.trainjob import run_on_nodes
from steps.params.distributed import Processes
from steps.params.nodes import NodeSettings
from steps.params.training import CheckpointParams

pytestmark = pytest.mark.slow  # four processes load torch

WORK = """
import os, sys
import torch.distributed as dist
dist.init_process_group("gloo")
import torch
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
told = f"rank {dist.get_rank()} of {dist.get_world_size()}: {total.item():g}, {os.environ['HF_HOME']}"
os.write(1, f"{told}\\n".encode())
if sys.argv[1] == "6" and dist.get_rank() == 3:
    os._exit(6)
if sys.argv[1] == "6":
    dist.barrier()  # which rank 3 never reaches
dist.destroy_process_group()
"""


@pytest.fixture(autouse=True)
def _work(tmp_path):
    (tmp_path / "work.py").write_text(WORK)


def run(tmp_path, what):
    command = [sys.executable, "-m", "steps.launch.node", "-m", "work", what]
    run_on_nodes(command, NodeSettings(), Processes(nodes=2, per_node=2), what, tmp_path / "job.json", times=QUICK)


@pytest.mark.long
def test_four_processes_on_two_nodes_meet(machines, tmp_path, caplog):
    with caplog.at_level("INFO", "finetune"):
        run(tmp_path, "0")
    assert machines.server.jobs == {}
    told = sorted(text for text in caplog.messages if text.startswith("rank "))
    assert told == [f"rank {rank} of 4: 10, /models/huggingface" for rank in (0, 1)]  # the first node's
    other = (tmp_path / "1.log").read_text()
    assert all(f"rank {rank} of 4: 10" in other for rank in (2, 3))


def test_one_process_that_fails_names_the_class_for_all(machines, tmp_path):
    with pytest.raises(StepError) as caught:
        run(tmp_path, "6")
    assert type(caught.value) is NumericError
    assert "node 1" in str(caught.value)
    codes = [process.poll() for _, process, _ in machines.processes]
    assert codes[1] == 6


def on_nodes(volume, **training):
    whole = {"max_steps": 16, "evaluation_strategy": "steps", "eval_steps": 8, "per_device_train_batch_size": 2}
    kept = CheckpointParams(checkpoint_dir=str(volume), save_steps=2)
    several = {"processes": Processes(nodes=2, per_node=1), "nodes": NodeSettings(), "checkpoints": kept}
    return settings_with({**whole, **training}, **several)


@pytest.fixture
def volume(machines, tmp_path, monkeypatch):
    """A folder that the task and its nodes see; what a cluster does with the nodes is done here."""
    for name in ("FINETUNE_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nodes, "COMMAND", (sys.executable, *nodes.COMMAND[1:]))
    monkeypatch.setattr(nodes, "Times", lambda: QUICK)
    return tmp_path / "volume"


def test_a_training_on_two_nodes_is_that_of_one_process(volume, machines, model, data, tmp_path):
    merged = tmp_path / "ours/merged"
    finetune(on_nodes(volume), model, data, tmp_path / "ours/tuned", None, tmp_path / "ours/report.html", merged)
    alone = train(settings_with({**on_nodes(volume).training.model_dump(), "per_device_train_batch_size": 4}),
                  model, data, tmp_path / "alone")  # fmt: skip
    ours = json.loads((tmp_path / "ours/tuned/history.json").read_text())
    assert [point["loss"] for point in ours["points"]] == pytest.approx([p["loss"] for p in alone["points"]], abs=1e-5)
    assert ours["processes"] == {"count": 2, "nodes": 2, "strategy": "ddp"}
    manifest = yaml.safe_load((tmp_path / "ours/tuned/trainjob.yaml").read_text())
    assert manifest["kind"] == "TrainJob"
    assert machines.server.jobs == {}
    assert read_manifest(merged).same_as == "tuned"
    left = [file.name for file in next((volume / "chat_completion").iterdir()).iterdir()]
    assert "result" not in left
    assert "processes" not in left


@pytest.mark.long
def test_nodes_that_lose_one_start_again_from_the_newest_checkpoint(volume, machines, model, data, tmp_path):
    def lose_one():
        folder = volume / "chat_completion"
        while not list(folder.glob("*/checkpoint-6/manifest.json")):
            time.sleep(0.05)
        machines.lose(1)

    threading.Thread(target=lose_one, daemon=True).start()
    finetune(on_nodes(volume), model, data, tmp_path / "ours/tuned", None, tmp_path / "ours/report.html")
    whole = volume.with_name("whole")
    machines.processes.clear()
    finetune(on_nodes(whole), model, data, tmp_path / "whole/tuned", None, tmp_path / "whole/report.html")
    assert machines.restarts == 1
    weights = [(tmp_path / name / "tuned/model.safetensors").read_bytes() for name in ("ours", "whole")]
    assert weights[0] == weights[1]


@pytest.mark.long
def test_the_error_of_a_node_is_the_error_of_the_task(volume, machines, model, data, tmp_path):
    with pytest.raises(NumericError, match="TRAIN-E0601"):
        finetune(on_nodes(volume, learning_rate=1e30), model, data, tmp_path / "tuned", None, tmp_path / "report.html")
    assert not (tmp_path / "tuned").exists()
    assert machines.restarts == 0


@pytest.mark.long
def test_a_task_that_is_started_again_takes_the_result_that_is_there(volume, machines, model, data, tmp_path):
    place = (tmp_path / "tuned", None, tmp_path / "report.html")
    with pytest.MonkeyPatch.context() as dies:
        dies.setattr(nodes, "_take", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finetune(on_nodes(volume), model, data, *place)
    started = len(machines.processes)
    finetune(on_nodes(volume), model, data, *place)
    assert len(machines.processes) == started
    assert read_manifest(tmp_path / "tuned", "model")


def test_nodes_whose_task_has_gone_save_and_end(volume, machines, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv("LEASE_SECONDS", "1")
    monkeypatch.setattr(nodes, "MODULE", "left_alone")
    monkeypatch.setattr(nodes, "COMMAND", (*nodes.COMMAND[:-1], "left_alone"))
    monkeypatch.setattr(nodes, "Times", lambda: replace(QUICK, renew_every=3600))
    with pytest.raises(UserError, match="TRAIN-E0219"):
        finetune(on_nodes(volume, max_steps=4000), model, data, tmp_path / "t", None, tmp_path / "r.html")
    assert list(volume.glob("chat_completion/*/checkpoint-*/manifest.json"))
    assert machines.restarts == 0
