"""Fixtures for the client: a KFP server, a Kubernetes server, and the command line in this process."""

import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kfp_server import KfpServer
from kubernetes_server import KubernetesServer

GIVEN = {"pytorch_model_path": "s3://models/base", "train_file_path": "s3://data/train.jsonl"}


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def problem(self) -> dict[str, Any]:
        """The line of JSON on stderr."""
        assert "Traceback" not in self.err, self.err
        return json.loads(self.err.strip().splitlines()[-1])


@pytest.fixture
def kfp_server(monkeypatch, tmp_path) -> Iterator[KfpServer]:
    """An empty KFP server, to which the environment leads; no Kubernetes."""
    from pipelines.client import following

    server = KfpServer()
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", server.url)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    for name in ("KF_PIPELINES_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH", "KF_PIPELINES_UI_ENDPOINT", "SSL_CERT_FILE",
                 "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME", "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(following, "LOOK_EVERY", 0.01)
    yield server
    server.close()


@pytest.fixture
def kubernetes(monkeypatch, tmp_path) -> Iterator[KubernetesServer]:
    """A Kubernetes API without pods, to which kubeconfig leads; after `kfp_server`."""
    server = KubernetesServer()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    yield server
    server.close()


@pytest.fixture
def compiled_once(monkeypatch) -> None:
    """Compile each pipeline once for all tests, if it is for no profile."""
    from pipelines.client import packages, scheduling, submitting
    from pipelines.sweeping import cluster

    for module in (submitting, scheduling, cluster):
        monkeypatch.setattr(module, "package_of", remembered(packages.package_of))


@cache
def remembered(compiling: Callable[..., Any]) -> Callable[..., Any]:
    plain = cache(lambda name: compiling(name))

    def package_of(name: str, profile: Any = None, image_prefix: str = "", images: Any = None) -> Any:
        if profile or image_prefix or images:
            return compiling(name, profile, image_prefix, images)
        return plain(name)

    return package_of


@pytest.fixture
def finetune(monkeypatch, capfd) -> Callable[..., Done]:
    """Run a command in this process."""

    def run(*words: str | Path) -> Done:
        from pipelines.cli import main

        monkeypatch.setattr("sys.argv", ["finetune", *map(str, words)])
        capfd.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        return Done(int(code), out, err)

    return run


def given() -> list[str]:
    """Return the words for a model and data that only a cluster reads, without a plan here."""
    return ["--no-plan", *(word for name, value in GIVEN.items() for word in ("-p", f"{name}={value}"))]
