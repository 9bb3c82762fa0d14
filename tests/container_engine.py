"""A container engine, a base image and the images core and train: existing ones, or made here if there are none.

A running engine (DOCKER_HOST, or the machine's own) is used. Otherwise a private dockerd is started, which needs root
and changes neither the machine's network rules nor another daemon; it stores its layers below the user's cache folder,
so that only the first build is slow. Without a registry the base image is made from Debian's packages.
"""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune-pipelines" / "containers"
PUBLIC_BASE = "python:3.11-slim-bookworm"  # the Dockerfiles' own default
LOCAL_BASE = "finetune-pipelines-base:bookworm"
DEBIAN = "http://deb.debian.org/debian"
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
PACKED_AWAY = ("./var/cache/apt", "./var/lib/apt/lists", "./usr/share/doc", "./usr/share/man", "./usr/share/locale")


def docker(*words: str | Path, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Call the client; with `check` a failure shows what the client said."""
    done = subprocess.run(["docker", *map(str, words)], capture_output=True, text=True, timeout=timeout)
    assert not check or done.returncode == 0, f"docker {words[0]}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@contextmanager
def running_engine(scratch: Path) -> Iterator[None]:
    """Make `docker` and the docker library reach an engine; skip the test when there is none."""
    if shutil.which("docker") is None:
        pytest.skip("no container engine: the docker client is not installed")
    if docker("version", check=False).returncode == 0:
        yield
        return
    if "DOCKER_HOST" in os.environ:
        pytest.skip(f"no container engine: nothing answers at DOCKER_HOST={os.environ['DOCKER_HOST']}")
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        pytest.skip("no container engine: none answers, and starting one needs root and dockerd")
    with _private_engine(scratch), pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", f"unix://{scratch}/docker.sock")
        _wait_for_engine(scratch)
        yield


@contextmanager
def _private_engine(scratch: Path) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    # The pid file lies with the layers: two daemons must not write to them.
    places = ["-H", f"unix://{scratch}/docker.sock", "--exec-root", scratch / "exec"]
    kept = ["--data-root", CACHE / "engine", "--pidfile", CACHE / "dockerd.pid"]
    no_network = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"]
    with open(scratch / "dockerd.log", "w") as log:
        daemon = subprocess.Popen(["dockerd", *places, *kept, *no_network], stdout=log, stderr=log)
    try:
        yield
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)
        # dockerd leaves this mount behind, and a folder with a mount in it cannot be removed.
        subprocess.run(["umount", scratch / "exec/netns/default"], capture_output=True)


def _wait_for_engine(scratch: Path) -> None:
    for _ in range(60):
        if docker("version", check=False).returncode == 0:
            return
        time.sleep(0.5)
    last = (scratch / "dockerd.log").read_text().strip().splitlines()[-1:]
    pytest.skip(f"no container engine: dockerd did not start: {''.join(last)}")


def base_image() -> str:
    """Name the image to build on: BASE_IMAGE, the public one, or one made here; skip when none can be had."""
    if named := os.environ.get("BASE_IMAGE"):
        return named
    for image in (PUBLIC_BASE, LOCAL_BASE):
        if docker("image", "inspect", image, check=False).returncode == 0:
            return image
    if docker("pull", PUBLIC_BASE, check=False).returncode == 0:
        return PUBLIC_BASE
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip(f"no base image: {PUBLIC_BASE} cannot be pulled, and making one needs root and debootstrap")
    packed = CACHE / "base.tar"
    if not packed.exists():
        _make_base(packed)
    docker("import", packed, LOCAL_BASE)
    return LOCAL_BASE


def _make_base(packed: Path) -> None:
    """Pack a minimal Debian with Python that trusts the certificates this machine trusts."""
    root = CACHE / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    packages = "--include=python3,python3-pip,python3-venv,ca-certificates"
    with open(CACHE / "debootstrap.log", "w") as log:
        subprocess.run(
            ["debootstrap", "--variant=minbase", packages, "bookworm", root, DEBIAN], stdout=log, stderr=log, check=True
        )
    # Behind a proxy that opens TLS, pip in a build needs the machine's certificates; no Dockerfile has to know of it.
    shutil.copyfile(Path("/", CA_BUNDLE), root / CA_BUNDLE)
    (root / "etc/pip.conf").write_text(f"[global]\ncert = /{CA_BUNDLE}\n")
    unfinished = packed.with_suffix(".unfinished")
    with tarfile.open(unfinished, "w") as archive:
        archive.add(root, ".", filter=lambda entry: None if entry.name.startswith(PACKED_AWAY) else entry)
    unfinished.rename(packed)
    shutil.rmtree(root)


def build(image: str, folder: str, base: str, context: Path = REPOSITORY) -> None:
    """Build `containers/<folder>` the way its README says, with the small CPU build of torch where one is at hand."""
    with _torch_index() as index:
        docker(
            "build", "--network", "host", "--build-arg", f"BASE_IMAGE={base}", *index,
            "-t", image, "-f", context / "containers" / folder / "Dockerfile", context, timeout=3600,
        )  # fmt: skip


@contextmanager
def _torch_index() -> Iterator[list[str]]:
    """Serve the torch wheel that pip's PIP_FIND_LINKS names as a package index; else PyPI's is taken."""
    folder = Path(os.environ.get("PIP_FIND_LINKS") or "/nowhere")
    if not list(folder.glob("torch-*.whl")):
        yield []
        return
    handler = functools.partial(_OneProject, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 8931), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # The port is always the same, so that the engine knows the layer again.
        yield ["--build-arg", "PIP_EXTRA_INDEX_URL=http://127.0.0.1:8931"]
        server.shutdown()


class _OneProject(http.server.SimpleHTTPRequestHandler):
    """A package index with the single project torch: the listing of its folder is its page."""

    def translate_path(self, path: str) -> str:
        return super().translate_path(path.removeprefix("/torch")) if path.startswith("/torch/") else "/nowhere"

    def log_message(self, *_: object) -> None:
        pass
