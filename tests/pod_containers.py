"""Run compiled tasks in containers as Kubernetes and KFP's launcher run them in pods.

The pod is that of `pods.py`: environment, secrets, claims, user. The launcher brings the input artifacts from the
object store below /minio, and stores the outputs there when the task has ended well.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from container_engine import docker
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as schema
from kfp_driver import BUCKET, Task
from pods import pod

USER = 1000


@dataclass(frozen=True)
class Ended:
    """A container that has ended."""

    code: int
    log: str
    """Both streams, as Kubernetes keeps them."""
    message: str
    """What Kubernetes shows as the reason: the termination message."""


@dataclass
class Cluster:
    """A folder for pods, an object store, and what the namespace has."""

    folder: Path
    store: Any
    """File system of the object store, in which the bucket for artifacts exists."""
    platform: dict[str, Any]
    """The second document of the compiled pipeline."""
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    claims: dict[str, Path | int] = field(default_factory=dict)
    """Folders of the persistent volumes by claim; a number is a new volume of so many MiB."""
    artifacts_mib: int = 0
    """Size of the disk for artifacts; 0: no limit."""

    def run(self, task: Task, timeout: float = 600) -> Ended:
        """Run a task to its end; after success its outputs are known, and stored."""
        with self.started(task) as container:
            return container.wait(timeout)

    def succeed(self, task: Task) -> Ended:
        """Run a task that must succeed."""
        ended = self.run(task)
        assert ended.code == 0, f"{task.name} ended with {ended.code}\n{ended.log[-6000:]}"
        return ended

    @contextmanager
    def started(self, task: Task) -> Iterator[Container]:
        """Start a task in a pod of its own: nothing is left of one before it but volumes and the object store."""
        home = self.folder / f"{task.name}-{uuid.uuid4().hex[:8]}"
        container = Container(self, task, home, f"finetune-{uuid.uuid4().hex[:12]}")
        try:
            container.start()
            yield container
        finally:
            docker("rm", "--force", container.name, check=False)

    def pod(self, task: Task) -> dict[str, Any]:
        """Return the pod of a task."""
        settings = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][task.label]
        return pod(task.container, json_format.ParseDict(settings, schema.KubernetesExecutorConfig()))

    def variables(self, spec: dict[str, Any]) -> Iterator[str]:
        """Yield NAME=value of a container, with values from secrets and config maps as the kubelet reads them."""
        for one in spec["env"]:
            if "valueFrom" not in one:
                yield f"{one['name']}={one.get('value', '')}"
                continue
            ((kind, reference),) = one["valueFrom"].items()
            there = {"secretKeyRef": self.secrets, "configMapKeyRef": self.config_maps}[kind]
            value = there.get(reference["name"], {}).get(reference["key"])
            assert value is not None or reference["optional"], f"the pod would never start without {reference}"
            if value is not None:
                yield f"{one['name']}={value}"


@dataclass
class Container:
    """The container of one task."""

    cluster: Cluster
    task: Task
    home: Path
    name: str

    def start(self) -> None:
        """Bring the inputs, and start it."""
        for folder in ("minio", "kfp", "kfp_outputs"):
            (self.home / folder).mkdir(parents=True)
        for uri in self._uris("inputs"):
            _download(self.cluster.store, uri.removeprefix("minio://"), self._place(uri))
        (self.home / "termination-log").touch()
        self._give_to_user()
        docker("create", "--name", self.name, *self._words())
        docker("start", self.name)

    def wait(self, timeout: float) -> Ended:
        """Wait for its end; after success store the outputs."""
        code = int(docker("wait", self.name, timeout=timeout).stdout)
        log = subprocess.run(
            ["docker", "logs", self.name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
        ).stdout
        if code == 0:
            self._collect()
        return Ended(code, log, (self.home / "termination-log").read_text())

    def is_running(self) -> bool:
        """Return whether it has not ended yet."""
        return docker("inspect", "-f", "{{.State.Running}}", self.name).stdout.strip() == "true"

    def _words(self) -> list[str]:
        made = self.cluster.pod(self.task)["spec"]
        (main,) = made["containers"]
        context = main["securityContext"]
        program, *arguments = self.task.command()
        mounts = {mount["name"]: mount["mountPath"] for mount in main["volumeMounts"]}
        claims = [volume for volume in made["volumes"] if "persistentVolumeClaim" in volume]
        words = ["--network", "host", "--read-only", "--cap-drop", "ALL",
                 "--security-opt", "no-new-privileges",
                 "--user", f"{context['runAsUser']}:{context['runAsGroup']}",
                 # Tiny models train ten times faster on one thread.
                 "--cpuset-cpus", "0",
                 "--tmpfs", "/tmp",
                 "-v", f"{self.home}/kfp:/tmp/kfp", "-v", f"{self.home}/kfp_outputs:/tmp/kfp_outputs",
                 "-v", f"{self.home}/termination-log:/dev/termination-log"]  # fmt: skip
        words += _mounted(self.cluster.artifacts_mib or self.home / "minio", "/minio")
        if memory := self.task.resource("resourceMemoryLimit"):
            words += ["--memory", memory.removesuffix("i").lower()]
        for volume in claims:
            there = self.cluster.claims[volume["persistentVolumeClaim"]["claimName"]]
            words += _mounted(there, mounts[volume["name"]])
        for variable in self.cluster.variables(main):
            words += ["-e", variable]
        return [*words, "--entrypoint", program, self.task.container["image"], *arguments]

    def _collect(self) -> None:
        """Read and store the outputs as the launcher does."""
        told = self.home / "kfp_outputs/output_metadata.json"
        written = json.loads(told.read_text()) if told.exists() else {}
        for name, about in self.task.outputs.get("parameters", {}).items():
            file = self.home / "kfp/outputs" / name
            values = written.get("parameterValues", {})
            self.task.made[name] = values[name] if name in values else _typed(about, file.read_text())
        given = self.task.executor_input["outputs"]["artifacts"]
        for name, about in given.items():
            known = written.get("artifacts", {}).get(name, about)["artifacts"][0]
            self.task.artifacts[name] = {**about["artifacts"][0], "metadata": known.get("metadata", {})}
        for uri in self._uris("outputs"):
            _upload(self.cluster.store, self._place(uri), uri.removeprefix("minio://"))

    def _uris(self, which: str) -> list[str]:
        artifacts = self.task.executor_input[which]["artifacts"]
        return [one["uri"] for about in artifacts.values() for one in about["artifacts"]]

    def _place(self, uri: str) -> Path:
        assert uri.startswith(f"minio://{BUCKET}/")
        return self.home / "minio" / uri.removeprefix("minio://")

    def _give_to_user(self) -> None:
        """The launcher runs as the user of the pod, so its files belong to that user."""
        for path in (self.home, *self.home.rglob("*")):
            os.chown(path, USER, USER)


def _typed(about: dict[str, Any], text: str) -> Any:
    return text if about["parameterType"] == "STRING" else json.loads(text)


def _mounted(there: Path | int, path: str) -> list[str]:
    return ["-v", f"{there}:{path}"] if isinstance(there, Path) else ["--tmpfs", f"{path}:size={there}m,uid={USER}"]


def _download(store: Any, remote: str, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    for found in store.find(remote):
        file = place / found[len(remote) + 1 :] if found != remote else place
        file.parent.mkdir(parents=True, exist_ok=True)
        store.get_file(found, str(file))


def _upload(store: Any, place: Path, remote: str) -> None:
    """Store a file, or the files of a folder; empty folders are lost, and a missing one is no error."""
    for file in [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]:
        inside = file.relative_to(place).as_posix()
        store.put_file(str(file), remote if inside == "." else f"{remote}/{inside}")


def as_root_made_it(folder: Path) -> Path:
    """Make the folder of a new volume, which belongs to root."""
    folder.mkdir()
    folder.chmod(0o755)
    os.chown(folder, 0, 0)
    return folder


def give_to_group(folder: Path, group: int) -> None:
    """Do what the kubelet does when it mounts a volume for a pod with this fsGroup."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, -1, group)
        path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o660))
