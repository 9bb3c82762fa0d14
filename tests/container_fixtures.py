"""Fixtures of all tests with containers: the engine, core and train, and a run of the documented pipeline in them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from container_engine import base_image, build, running_engine
from container_tasks import CLAIM, MINUTES, Started, compiled, documented_profile, secret_of, volume
from documented import ROOT, arguments
from example_files import make, sources
from kfp_driver import BUCKET, Driver
from pod_containers import Cluster, Container
from s3_server import S3Server, free_port, s3_server, serving

from pipelines.images import CORE, TRAIN


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with running_engine(tmp_path_factory.mktemp("engine")):
        yield


@pytest.fixture(scope="session")
def base(engine: None) -> str:
    return base_image()


@pytest.fixture(scope="session")
def core(base: str) -> str:
    build(CORE, "core", base)
    return CORE


@pytest.fixture(scope="session")
def train(base: str) -> str:
    build(TRAIN, "train", base)
    return TRAIN


@pytest.fixture(scope="session")
def s3_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server that takes one key, with the documented example in the documented bucket."""
    folder = tmp_path_factory.mktemp("s3")
    checkout = folder / "checkout"
    sources(checkout)
    make(checkout, ROOT / "examples/dates/make.py")
    example = checkout / "examples/dates"
    with s3_server(folder, BUCKET, "mlflow", "models") as server:
        for file in (path for path in example.rglob("*") if path.is_file()):
            server.files().put_file(str(file), f"models/dates/{file.relative_to(example)}")
        yield server


@pytest.fixture(scope="session")
def mlflow_on_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server whose clients write artifacts to S3 themselves."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    store = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--default-artifact-root", "s3://mlflow"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--no-serve-artifacts"]
    command = [str(Path(sys.executable).with_name("mlflow")), "server", *store, *where]
    with serving(command, f"http://127.0.0.1:{port}/health", folder / "server.log"):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def prepared(
    core: str, train: str, s3_store: S3Server, mlflow_on_s3: str, tmp_path_factory: pytest.TempPathFactory
) -> Started:
    """The documented run on a cluster like that of the first documented profile, as far as its training."""
    folder = tmp_path_factory.mktemp("cluster")
    profile = documented_profile(s3_store, mlflow_on_s3)
    spec, platform = compiled(folder, profile)
    secrets = {secret_of(profile): {"accesskey": s3_store.access_key, "secretkey": s3_store.secret_key}}
    claims = {CLAIM: volume(folder / "volume")}
    cluster = Cluster(folder, s3_store.files(), platform, secrets, claims=claims)
    given = {**arguments(), "save_minutes": MINUTES}
    tasks, done = Driver(spec, given).tasks(), {}
    for task in tasks:
        if task.name == "finetune":
            return Started(cluster, spec, given, done, task, tasks)
        cluster.succeed(task)
        done[task.name] = task
    raise AssertionError("no task finetune")


@pytest.fixture(scope="session")
def outage(prepared: Started, mlflow_on_s3: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A plan that asks a store which does not answer; it tries for minutes, while other tests run."""
    folder = tmp_path_factory.mktemp("outage")
    silent = S3Server(f"http://127.0.0.1:{free_port()}", "key", "secret")
    spec, platform = compiled(folder, documented_profile(silent, mlflow_on_s3))
    task = next(Driver(spec, prepared.given).tasks())
    with replace(prepared.cluster, folder=folder, platform=platform).started(task) as container:
        yield container
