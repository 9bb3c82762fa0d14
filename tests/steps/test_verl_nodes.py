"""A training with verl on two nodes of a TrainJob: real processes, with stand-ins for verl and for Ray."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray_stand_in
import verl_runs
import yaml
from trainer_machines import QUICK, TESTS
from training_inputs import as_imported
from verl_stand_in import ASKED, installed

from steps.artifacts import read_manifest
from steps.errors import Outage, OutOfResources, Preempted, StepError, UserError
from steps.finetune import nodes, verl_node
from steps.finetune.step import finetune
from steps.launch.meeting import WAIT, lost
from steps.launch.told import error_file, from_text
from steps.params.distributed import Processes
from steps.params.lora import LoraParams
from steps.params.nodes import NodeSettings
from steps.params.reward_training import RewardTraining
from steps.params.settings import FinetuneSettings, RewardSettings
from steps.params.training import CheckpointParams

pytestmark = pytest.mark.slow


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return as_imported(tiny_model, tmp_path / "model")


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """Rows; processes of this test find the stand-ins."""
    found = installed(tmp_path)["PYTHONPATH"]
    ray_stand_in.installed(tmp_path / "stand_in")
    (tmp_path / "stand_in/vllm").mkdir()
    (tmp_path / "stand_in/vllm/__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", found)
    monkeypatch.syspath_prepend(str(tmp_path / "stand_in"))
    return verl_runs.write_rows(tmp_path / "data", [verl_runs.row(number) for number in range(8)], [verl_runs.row(100)])


@pytest.fixture
def cluster(machines, data, tmp_path, monkeypatch):
    """The machines, on which no process is left after the test."""
    for name in ("FINETUNE_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nodes, "OF_VERL", (sys.executable, *nodes.OF_VERL[1:]))
    monkeypatch.setattr(nodes, "Times", lambda: QUICK)
    machines.paths = [*os.environ["PYTHONPATH"].split(os.pathsep), TESTS]
    return machines


def settings(volume: Path, resume: str = "false", count: int = 2, **changes) -> FinetuneSettings:
    """A training on `count` nodes with one GPU each, or on one node with two."""
    asked = verl_runs.settings(**{"trainer_nnodes": count, "trainer_n_gpus_per_node": 2 // count, **changes})
    several = {"processes": Processes(nodes=count, per_node=2 // count), "nodes": NodeSettings()} if count > 1 else {}
    return FinetuneSettings(
        pipeline="verl_finetune", verl=asked, lora=LoraParams(apply_lora=True), rewarded=RewardTraining(),
        rewards=RewardSettings(reward_funcs="exact_answer"), **several,
        checkpoints=CheckpointParams(checkpoint_dir=str(volume), resume_from_checkpoint=resume),
    )  # fmt: skip


def run(asked: FinetuneSettings, model: Path, data: Path, out: Path) -> dict:
    out.mkdir(exist_ok=True)
    finetune(asked, model, data, out / "tuned", None, out / "report.html", out / "merged")
    return json.loads((out / "tuned/history.json").read_text())


def codes(machines) -> list[int | None]:
    return [process.poll() for _, process, _ in machines.processes]


def left(folder: Path) -> list[str]:
    """The processes that nodes started and that go on."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline", "status"]):
        cwd = process.info["cwd"] or ""
        if cwd.startswith(str(folder)) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(" ".join(process.info["cmdline"]))
    return found


def when_it_waits(volume: Path, then) -> None:
    """Do something when verl's stand-in waits in a step."""

    def watch():
        while not any("waiting" in file.read_text("utf-8") for file in volume.rglob("verl/verl.log")):
            time.sleep(0.05)
        then()

    threading.Thread(target=watch, daemon=True).start()


def test_a_training_on_two_nodes_is_that_of_one(cluster, model, data, tmp_path):
    volume = tmp_path / "volume"
    history = run(settings(volume), model, data, tmp_path / "ours")
    alone = run(settings(tmp_path / "other", count=1), model, data, tmp_path / "alone")
    assert history["points"] == alone["points"]
    assert history["processes"] == {"count": 2, "nodes": 2, "strategy": "fsdp2"}
    results = [(tmp_path / name / "merged/model.safetensors").read_bytes() for name in ("ours", "alone")]
    assert results[0] == results[1]
    assert read_manifest(tmp_path / "ours/tuned").kind == "adapter"
    manifest = yaml.safe_load((tmp_path / "ours/tuned/trainjob.yaml").read_text())
    assert manifest["spec"]["trainer"]["command"][1:3] == ["-m", "steps.finetune.verl_node"]
    assert codes(cluster) == [0, 0]
    assert left(tmp_path) == []
    assert cluster.server.jobs == {}
    assert not list(volume.glob("verl_finetune/*/result"))
    assert not list(volume.glob("verl_finetune/*/global_step_2"))  # the newest one stays until the result has arrived


@pytest.mark.long
def test_nodes_that_lose_one_start_again_from_the_newest_checkpoint(cluster, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ASKED, "wait:3")

    def lose_one():
        monkeypatch.delenv(ASKED)
        cluster.lose(1)

    when_it_waits(tmp_path / "volume", lose_one)
    history = run(settings(tmp_path / "volume"), model, data, tmp_path / "ours")
    assert cluster.restarts == 1
    assert history["resumed_from"] == 2  # though resume_from_checkpoint is false
    assert [point["step"] for point in history["points"]] == [1, 2, 3, 4]


def test_a_node_that_is_lost_is_named(cluster, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ASKED, "wait:3")
    cluster.most_restarts = 0
    when_it_waits(tmp_path / "volume", lambda: cluster.lose(1))
    with pytest.raises(Outage, match=r"NODES-E0406 node 1 \("):
        run(settings(tmp_path / "volume"), model, data, tmp_path / "ours")
    assert codes(cluster) == [4, -signal.SIGKILL]
    assert not (tmp_path / "ours/tuned").exists()


def test_a_node_0_that_is_lost_is_named_by_the_others(cluster, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ASKED, "wait:3")
    cluster.most_restarts = 0
    when_it_waits(tmp_path / "volume", lambda: cluster.lose(0))
    with pytest.raises(Outage, match=r"NODES-E0406 node 0 \("):
        run(settings(tmp_path / "volume"), model, data, tmp_path / "ours")
    assert codes(cluster) == [-signal.SIGKILL, 4]
    assert left(tmp_path) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_is_asked_to_stop_ends_all_with_143(cluster, model, data, tmp_path, monkeypatch, rank):
    monkeypatch.setenv(ASKED, "wait:3")
    when_it_waits(tmp_path / "volume", lambda: cluster.processes[rank][1].send_signal(signal.SIGTERM))
    with pytest.raises(Preempted):
        run(settings(tmp_path / "volume"), model, data, tmp_path / "ours")
    assert codes(cluster) == [143, 143]
    assert left(tmp_path) == []
    assert list((tmp_path / "volume").rglob("global_step_2/manifest.json"))


def test_all_nodes_end_with_the_code_of_verls_failure(cluster, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ASKED, "oom:2")
    with pytest.raises(OutOfResources, match="VERL-E0501"):
        run(settings(tmp_path / "volume"), model, data, tmp_path / "ours")
    assert codes(cluster) == [5, 5]
    assert left(tmp_path) == []


def test_a_node_that_does_not_join_is_named_after_a_limit(cluster, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ray_stand_in.ASKED, "slow:worker")
    monkeypatch.setenv(WAIT, "15")
    with pytest.raises(Outage, match=r"NODES-E0405 2 nodes: found 1 after 15 s: node 1 \(.*\) is there and has not"):
        run(settings(tmp_path / "volume"), model, data, tmp_path / "ours")


def test_a_ray_that_does_not_start_on_a_node_is_told(cluster, model, data, tmp_path, monkeypatch):
    monkeypatch.setenv(ray_stand_in.ASKED, "refuse:worker")
    with pytest.raises(Outage, match="NODES-E0408 Ray on node 1") as caught:
        run(settings(tmp_path / "volume"), model, data, tmp_path / "ours")
    assert "cap object store memory" in "".join(caught.value.__notes__)
    assert codes(cluster) == [4, 4]


# ---- without processes


def test_a_training_that_nobody_follows_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(verl_node, "EVERY", 0)
    monkeypatch.setattr(verl_node.Lease, "is_stale", lambda self: True)
    quiet = type("Quiet", (), {"look": lambda self: None})()
    training = type("Training", (), {"alive": str(tmp_path / "lease")})()
    with pytest.raises(UserError, match="TRAIN-E0219"):
        verl_node._watching(training, quiet, quiet)()


def test_an_error_is_told_to_the_task(tmp_path):
    node = verl_node.Node(2, 1)
    assert verl_node._tell(tmp_path, node, lost(0, "host")) == 4
    told = from_text(error_file(tmp_path, 1).read_text("utf-8"))
    assert isinstance(told, StepError)
    assert told.problems[0].code == "NODES-E0406"
