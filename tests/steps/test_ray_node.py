"""Ray on a node: how it is started, and how its end is told. By a stand-in for Ray's command."""

import os
import socket

import psutil
import pytest
import ray_stand_in
from ray_stand_in import ASKED
from waiting import wait_for

import steps.launch.ray_node as module
from steps.errors import Outage
from steps.launch.ray_node import Ray, arguments_of, free_bytes, variables
from steps.launch.several_processes import Node

GIB = 2**30
HEAD, WORKER = Node(2, 0, "job-node-0-0.job", 29400), Node(2, 1, "job-node-0-0.job", 29400)


def test_the_head_listens_at_the_port_after_that_of_the_nodes():
    assert arguments_of(HEAD, 8, 10 * GIB) == [
        "--head", "--port=29401", "--include-dashboard=false", "--num-gpus=8", f"--object-store-memory={5 * GIB}",
        "--disable-usage-stats", "--block",
    ]  # fmt: skip


def test_the_others_join_it_without_the_options_that_only_a_head_has():
    assert arguments_of(WORKER, 8, 10 * GIB) == [
        "--address=job-node-0-0.job:29401", "--num-gpus=8", f"--object-store-memory={5 * GIB}", "--disable-usage-stats",
        "--block",
    ]  # fmt: skip


def test_a_small_shared_memory_is_left_to_ray():
    assert not [word for word in arguments_of(HEAD, 8, 64 * 2**20) if "memory" in word]
    assert free_bytes("/dev/shm") > 0
    assert free_bytes("/nowhere") == 0


def test_processes_find_the_cluster_with_its_token_and_report_nothing_to_ray():
    assert variables(WORKER, "token") == {
        "RAY_ADDRESS": "job-node-0-0.job:29401", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Make nodes of one cluster; they are stopped after the test."""
    ray_stand_in.installed(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] - 1
    made = []

    def node(rank: int, token: str = "token") -> Ray:
        made.append(Ray(Node(2, rank, "127.0.0.1", port), 3, token))
        return made[-1]

    yield node
    for one in made:
        one.stop()


def nothing():
    pass


def test_two_nodes_are_one_cluster_and_end_when_they_are_stopped(cluster, monkeypatch):
    head, worker = cluster(0), cluster(1)
    head.start(nothing)
    worker.start(nothing)
    for name, value in head.environment.items():
        monkeypatch.setenv(name, value)
    assert ray_stand_in.gpus_of_cluster() == 6
    head.look()
    worker.look()
    process = psutil.Process(worker._process.pid)
    worker.stop()
    assert not process.is_running()
    wait_for(lambda: ray_stand_in.gpus_of_cluster() == 3)


def test_another_token_is_kept_out(cluster):
    cluster(0).start(nothing)
    with pytest.raises(Outage, match=r"NODES-E0408 Ray on node 1: found ended with code 1") as caught:
        cluster(1, "another").start(nothing)
    assert "Failed to connect to Ray cluster" in caught.value.__notes__[0]


def test_a_ray_that_does_not_start_ends_the_wait(cluster, monkeypatch):
    monkeypatch.setattr(module, "START_SECONDS", 0.5)
    monkeypatch.setenv(ASKED, "slow:head")
    with pytest.raises(Outage, match="not started after 0 s"):
        cluster(0).start(nothing)


def test_a_ray_that_ends_later_is_noticed_with_its_last_lines(cluster, monkeypatch):
    monkeypatch.setenv(ASKED, "die:head")
    head = cluster(0)
    head.start(nothing)

    def ended() -> bool:
        return head._process.poll() is not None

    wait_for(ended)
    with pytest.raises(Outage, match="ended with code 1") as caught:
        head.look()
    assert caught.value.__notes__[0].endswith("raylet [exit code=1]")


def test_a_request_to_stop_ends_the_start(cluster, monkeypatch):
    monkeypatch.setenv(ASKED, "slow:head")

    def asked():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        cluster(0).start(asked)


def test_the_start_does_not_take_the_address_of_a_cluster_for_its_own(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:1")
    head = cluster(0)
    head.start(nothing)
    assert "RAY_ADDRESS" not in psutil.Process(head._process.pid).environ()
    assert os.environ["RAY_ADDRESS"] == "elsewhere:1"
