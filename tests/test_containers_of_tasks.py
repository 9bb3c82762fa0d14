"""The compiled chat_completion in containers as on a cluster: a killed training resumes; a client loads the version.

Every container has the environment, secrets, claims and user of the compiled pod, and nothing else (`pod_containers`).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from container_engine import docker
from container_tasks import CLAIM, MINUTES, Started, volume, writable_job
from kfp_driver import Task
from pod_containers import USER, Cluster, Container, Ended, as_root_made_it, give_to_group
from s3_server import REGION

from pipelines.images import TRAIN

pytest_plugins = ["container_fixtures"]
pytestmark = pytest.mark.containers

SAVING = 3  # seconds in which a busy machine ends a step and writes a checkpoint of 10 MB
DATE = "Normalise: the 3rd of May 1987"


def test_a_volume_of_roots_is_refused_until_the_job_of_install_yaml_has_run(core, tmp_path):
    folder = as_root_made_it(tmp_path / "volume")
    refused = writable_job(folder)
    assert refused.returncode == 1
    assert re.search(r"^Fix: .*chown 1000:1000", refused.stdout, re.M)
    assert list(folder.iterdir()) == []
    give_to_group(folder, USER)
    assert writable_job(folder).returncode == 0
    (made,) = folder.iterdir()
    assert (made.stat().st_uid, made.stat().st_gid, list(made.iterdir())) == (USER, USER, [])
    assert writable_job(folder).returncode == 0  # applied twice


@dataclass(frozen=True)
class Trained:
    """The same training task twice: undisturbed; and killed without warning, then started once more."""

    whole: Ended
    expected: dict[str, bytes]
    killed: Ended
    lost: float
    """Seconds before the kill of which no checkpoint knows."""
    again: Ended
    weights: dict[str, bytes]


@pytest.fixture(scope="module")
def trained(prepared: Started, outage: Container, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    # `outage` is for other tests: it only waits, so it may begin now.
    whole = prepared.cluster.succeed(prepared.finetune)
    expected = weights(prepared)
    other = replace(prepared.cluster, claims={CLAIM: volume(tmp_path_factory.mktemp("other") / "volume")})
    killed, lost = killed_in_training(other, prepared.finetune)
    again = other.succeed(prepared.finetune)
    return Trained(whole, expected, killed, lost, again, weights(prepared))


def weights(started: Started) -> dict[str, bytes]:
    """Give the files with the weights that the task has stored."""
    store = started.cluster.store
    place = started.finetune.artifacts["tuned_model"]["uri"].removeprefix("minio://")
    return {name: store.cat_file(name) for name in store.find(place) if name.endswith(".safetensors")}


def killed_in_training(cluster: Cluster, task: Task) -> tuple[Ended, float]:
    """Kill a task between two checkpoints; return how it ended, and for how many seconds nothing had been saved."""
    folder = cluster.claims[CLAIM]
    with cluster.started(task) as container:
        seen: set[Path] = set()
        deadline = time.monotonic() + 300
        while len(seen) < 2:
            assert container.is_running(), container.wait(10).log[-3000:]
            assert time.monotonic() < deadline, "no second checkpoint"
            time.sleep(0.2)
            seen |= set(folder.rglob("checkpoint-*/manifest.json"))
        time.sleep(MINUTES * 60 / 2)
        docker("kill", "--signal", "KILL", container.name)
        killed_at = time.time()
        ended = container.wait(30)
    return ended, killed_at - max(file.stat().st_mtime for file in folder.rglob("checkpoint-*/manifest.json"))


def test_a_killed_training_is_resumed_by_a_second_start_and_gives_the_same_weights(trained):
    assert trained.killed.code == 137
    assert trained.killed.message == ""  # there was no time to say anything
    assert "resuming from" not in trained.whole.log
    assert re.search(r"resuming from \S*/checkpoint-[1-9]", trained.again.log)
    assert trained.expected
    assert trained.weights == trained.expected


def test_a_killed_training_loses_at_most_the_minutes_between_two_checkpoints(trained):
    assert trained.lost <= MINUTES * 60 + SAVING


@pytest.fixture(scope="module")
def after(prepared: Started, trained: Trained) -> dict[str, Task]:
    """The tasks after the training, which work on what the resumed one has made."""
    tasks = {}
    for task in prepared.tasks:
        prepared.cluster.succeed(task)
        tasks[task.name] = task
    return tasks


def test_the_resumed_training_becomes_a_version_that_a_client_loads(after, s3_store, mlflow_on_s3):
    assert after["evaluate"].made["Output"] is True
    assert "register-model" in after
    program = f"""
import mlflow
print(mlflow.pyfunc.load_model("models:/dates@champion").predict([{{"prompt": {DATE!r}}}]))
"""
    variables = {
        "AWS_ACCESS_KEY_ID": s3_store.access_key, "AWS_SECRET_ACCESS_KEY": s3_store.secret_key,
        "AWS_ENDPOINT_URL": s3_store.url, "MLFLOW_S3_ENDPOINT_URL": s3_store.url, "AWS_DEFAULT_REGION": REGION,
        "MLFLOW_TRACKING_URI": mlflow_on_s3,
    }  # fmt: skip
    words = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    done = docker("run", "--rm", "--network", "host", "--cpuset-cpus", "0", *words, TRAIN, "python", "-c", program)
    assert "1987-05-03" in done.stdout.splitlines()[-1]


def test_only_tasks_that_read_sources_or_track_get_credentials(prepared, after, s3_store):
    tasks = {**prepared.done, "finetune": prepared.finetune, **after}
    secret = f"AWS_SECRET_ACCESS_KEY={s3_store.secret_key}"
    given = {
        name: list(prepared.cluster.variables(prepared.cluster.pod(task)["spec"]["containers"][0]))
        for name, task in tasks.items()
    }
    without = {"merge-adapter", "evaluate"}
    assert {name for name, variables in given.items() if secret not in variables} == without & set(tasks)
