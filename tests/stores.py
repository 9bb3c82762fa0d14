"""An object store in memory for tests, which can be slow, fail or wait."""

import threading
import time
from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from steps.sources import storage

ROOT = "memory://bucket/checkpoints"


class OddMemory(MemoryFileSystem):
    """A store in memory that takes some time, or fails, for each object that is uploaded."""

    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    seconds = 0.0
    failures: ClassVar[list[Exception]] = []
    puts: ClassVar[list[str]] = []
    """Names of all files that were uploaded, in order."""
    gate: threading.Event | None = None
    """Uploads wait for it."""

    def put_file(self, lpath, rpath, **more):
        kind = type(self)
        if kind.gate:
            kind.gate.wait(180)
        time.sleep(kind.seconds)
        if kind.failures:
            raise kind.failures.pop()
        kind.puts.append(rpath.removeprefix("/bucket/checkpoints/"))
        return super().put_file(lpath, rpath, **more)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> type[OddMemory]:
    """An empty store at memory://, which checkpoints may be written to."""
    monkeypatch.setattr(storage, "SCHEMES", storage.SCHEMES | {"memory"})
    fresh = {"store": {}, "pseudo_dirs": [""], "failures": [], "puts": []}
    kind = type("Memory", (OddMemory,), fresh)
    monkeypatch.setitem(_registry, "memory", kind)
    return kind


def objects(kind: type[OddMemory]) -> dict[str, bytes]:
    """All objects of a store in memory, by their names below ROOT."""
    found = {name: file.getvalue() for name, file in list(kind.store.items())}
    return {name.removeprefix("/bucket/checkpoints/"): content for name, content in found.items()}
