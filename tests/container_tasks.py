"""The documented run of chat_completion in containers, as far as its training, on S3 and MLflow in their own processes.

The profile and the parameters are those that docs/operations.md shows; only addresses and the registry are others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from container_engine import docker
from documented import PROFILES, ROOT
from kfp_driver import Task
from pod_containers import USER, Cluster, as_root_made_it, give_to_group
from s3_server import REGION, S3Server

from pipelines.images import CORE

CLAIM = "checkpoints"
MINUTES = 0.1  # between checkpoints: what a killed training may lose


@dataclass
class Started:
    """A run in the middle: what it was given, what is done, what is next, and where it runs."""

    cluster: Cluster
    spec: dict[str, Any]
    given: dict[str, Any]
    done: dict[str, Task]
    finetune: Task
    tasks: Iterator[Task]
    """Those after the training, which must have run before."""


def documented_profile(s3_store: S3Server, mlflow_on_s3: str) -> dict[str, Any]:
    """Return the first documented profile, with images that were built here and servers on this machine."""
    profile = yaml.safe_load(PROFILES[0])
    profile["images"] = {}
    profile["object_store"]["s3"] |= {"endpoint": s3_store.url, "region": REGION}
    profile["tracking"]["uri"] = mlflow_on_s3
    return profile


def secret_of(profile: dict[str, Any]) -> str:
    """Name the secret with the credentials of S3."""
    return str(profile["object_store"]["s3"]["secret"])


def compiled(folder: Path, profile: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Compile chat_completion with a profile; return both documents."""
    from pipelines.compile import compile_pipelines
    from pipelines.profile_file import read_profile

    (folder / "cluster.yaml").write_text(yaml.safe_dump(profile))
    (file,) = compile_pipelines(["chat_completion"], folder, profile=read_profile(folder / "cluster.yaml"))
    spec, platform = yaml.load_all(file.read_text(), yaml.CSafeLoader)
    return spec, platform


def volume(folder: Path) -> Path:
    """Make a volume that belongs to root, and let the Job of install.yaml make it writable."""
    as_root_made_it(folder)
    give_to_group(folder, USER)  # as the kubelet does for the Job, whose pod has an fsGroup
    done = writable_job(folder)
    assert done.returncode == 0, done.stdout
    return folder


def writable_job(folder: Path) -> Any:
    """Run the Job of install.yaml with its own user, group and mount, and return how it ended."""
    objects = yaml.safe_load_all((ROOT / "docs/install.yaml").read_text())
    (job,) = [made for made in objects if made["kind"] == "Job"]
    spec = job["spec"]["template"]["spec"]
    (main,) = spec["containers"]
    (mount,) = main["volumeMounts"]
    user = f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    program, *words = [*main["command"], *main["args"]]
    return docker(
        "run", "--rm", "--network", "none", "--read-only", "--cap-drop", "ALL", "--user", user,
        "-v", f"{folder}:{mount['mountPath']}", "--entrypoint", program, CORE, *words, check=False,
    )  # fmt: skip
