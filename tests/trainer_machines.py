"""The machines of a cluster for tests: the nodes of a TrainJob run here, as real processes that meet."""

import os
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from trainer_pods import POD, launcher_pod
from trainer_server import TrainerServer, end, node

from steps.launch.trainjob import Times

TESTS = str(Path(__file__).parent)
QUICK = Times(look_every=0.1, renew_every=0.1, patience=20, first_wait=0.01, grace=1, logs=10)


class Machines:
    """Runs the nodes of a job here: what the Trainer's torch plugin, JobSet and the kubelets do."""

    def __init__(self, server: TrainerServer, folder):
        self.server, self.folder, self.processes, self.restarts = server, folder, [], 0
        self.most_restarts = 1
        self.paths = [os.getcwd(), str(folder), TESTS]
        """Where the processes of the nodes find modules."""

    def behave(self, job, look):
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        if not self.processes:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            for rank in range(trainer["numNodes"]):
                pod = self.server.add_pod(node(name, rank, "Running"))
                self.server.logs[pod["metadata"]["name"]] = []
                self.processes.append((pod, self._start(trainer, rank, port), rank))
        for pod, process, rank in self.processes:
            lines = (self.folder / f"{rank}.log").read_text().splitlines()
            self.server.logs[pod["metadata"]["name"]][:] = [f"2026-01-01T00:00:00.{n:09d}Z {line}"
                                                            for n, line in enumerate(lines)]  # fmt: skip
            code = process.poll()
            if code is not None and pod["status"]["phase"] == "Running":
                over = {
                    "exitCode": code,
                    "reason": "Error" if code else "Completed",
                    "finishedAt": f"{time.time():.3f}",
                }
                pod["status"] = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [
                    {"name": "node", "state": {"terminated": over}}]}  # fmt: skip
        codes = [process.poll() for _, process, _ in self.processes]
        if -9 in codes and self.restarts < self.most_restarts:  # a machine was lost: all nodes start again
            self.restarts += 1
            for pod, process, rank in self.processes:
                self.lose(rank)
                process.wait()
                self.server.delete_pod(pod["metadata"]["name"])
            self.processes = []
        elif None not in codes:
            end(job, "Failed" if any(codes) else "Complete")

    def lose(self, rank):
        """Lose the machine of a node: its agent and what that started."""
        agent = self.processes[rank][1]
        if agent.poll() is None:
            started = psutil.Process(agent.pid).children(recursive=True)
            for process in (agent, *started):
                process.kill()

    def _start(self, trainer, rank, port):
        given = {entry["name"]: entry["value"] for entry in trainer["env"] if "value" in entry}
        reserved = {"PET_NNODES": trainer["numNodes"], "PET_NPROC_PER_NODE": trainer["numProcPerNode"],
                    "PET_NODE_RANK": rank, "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}  # fmt: skip
        environment = {**os.environ, **given, **{key: str(value) for key, value in reserved.items()},
                       "PYTHONPATH": os.pathsep.join(self.paths)}  # fmt: skip
        log = (self.folder / f"{rank}.log").open("w")
        return subprocess.Popen(trainer["command"], env=environment, stdout=log, stderr=log, cwd=self.folder)


@pytest.fixture
def machines(monkeypatch, tmp_path):
    from kubernetes import config

    server = TrainerServer()
    server.add_pod(launcher_pod())
    made = Machines(server, tmp_path)
    server.behave = made.behave
    monkeypatch.setenv("KFP_POD_NAME", POD)
    monkeypatch.setenv("KFP_NAMESPACE", "team")
    monkeypatch.setattr(config, "load_incluster_config", lambda one: setattr(one, "host", server.url))
    yield made
    for _, process, rank in made.processes:
        made.lose(rank)
        process.wait()
    server.close()
