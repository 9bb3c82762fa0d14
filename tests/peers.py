"""Traces of TRL, PEFT and transformers alone, kept in tests/peers/, so that an equality test trains once, not twice.

A test asks `peer(function, *given)`, a function that trains with the peers alone. What it returned is kept under a key
of all that shapes it: the versions of the libraries, the kind of CPU (its sums are rounded differently on another), the
function's source with everything of the tests that it uses, and what it is given: rows, settings, and the bytes of a
model. With any other key the peer runs. `make test-peers` runs them all and writes what they returned, beside what they
returned on other kinds of CPU with the same versions.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

KEPT = Path(__file__).parent / "peers"
LIBRARIES = ("accelerate", "bitsandbytes", "datasets", "numpy", "peft", "tokenizers", "torch", "transformers", "trl")
WRITE = "PEERS_WRITE"  # set to 1: run every peer and keep what it returns


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what compares with a peer."""
    for item in items:
        if "peer" in getattr(item, "fixturenames", ()):
            item.add_marker("peers")


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> Peer:
    """Call a function that trains with the peers alone, or give what it returned before."""
    return Peer(KEPT / f"{request.path.stem}.json", request.node.name)


class Peer:
    """Calls functions that train with the peers alone, for one test, and gives what they return."""

    def __init__(self, file: Path, test: str):
        self.file, self.test = file, test
        self.asked = 0

    def __call__(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Call the function, unless what it returned is kept; a list of numbers, or of names with numbers."""
        self.asked += 1
        name = self.test if self.asked == 1 else f"{self.test} {self.asked}"
        key, kept = key_of(function, given, named), traces(self.file).get(name, {}).get(kind_of_cpu(), {})
        if os.environ.get(WRITE) != "1":
            return kept["trace"] if kept.get("key") == key else function(*given, **named)
        told = json.loads(json.dumps(function(*given, **named)))
        keep(self.file, name, {"key": key, "trace": told})
        assert kept.get("key") != key or kept["trace"] == told, "another trace, though nothing changed that shapes it"
        return told


@functools.cache
def traces(file: Path) -> dict[str, dict[str, dict]]:
    """Read what is kept for a file of tests: name of the test → kind of CPU → key and trace."""
    kept = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return kept["traces"] if kept.get("versions") == versions() else {}


def keep(file: Path, name: str, entry: dict) -> None:
    """Write one trace; not for several processes at once."""
    file.parent.mkdir(exist_ok=True)
    known = traces(file)
    known.setdefault(name, {})[kind_of_cpu()] = entry
    text = ",\n".join(f"{json.dumps(one)}: {{\n{_by_cpu(known[one])}\n}}" for one in sorted(known))
    file.write_text(f'{{"versions": {json.dumps(versions())},\n"traces": {{\n{text}\n}}}}\n', "utf-8")


def _by_cpu(entries: dict[str, dict]) -> str:
    return ",\n".join(f" {json.dumps(kind)}: {json.dumps(entries[kind])}" for kind in sorted(entries))


def key_of(function: Callable[..., Any], given: tuple, named: dict[str, Any]) -> str:
    """Digest everything that shapes what a peer returns."""
    parts = [versions(), cpu(), sorted(sources(function)), list(described((given, named)))]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@functools.cache
def versions() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


@functools.cache
def cpu() -> str:
    """Name what decides which kernels torch takes, and so in which order they add."""
    import torch

    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    facts = dict(re.findall(r"^(vendor_id|cpu family|model|flags)\s*: (.*)$", told, re.M))
    flags = [flag for flag in facts.pop("flags", "").split() if re.match(r"avx|amx|fma|sse", flag)]
    built = hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:12]
    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"{capability}, {threads} threads, {' '.join(facts.values())}, {' '.join(flags)}, build {built}"


@functools.cache
def kind_of_cpu() -> str:
    """Give a short name of it."""
    return f"{cpu().partition(',')[0]} {hashlib.sha256(cpu().encode()).hexdigest()[:8]}"


def sources(function: Callable[..., Any], seen: set[str] | None = None) -> Iterator[str]:
    """Give the source of a function, and of each function and constant of the tests that it uses."""
    seen = set() if seen is None else seen
    if function.__qualname__ in seen:
        return
    seen.add(function.__qualname__)
    yield inspect.getsource(function)
    for name, used in inspect.getclosurevars(function).globals.items():
        if inspect.isfunction(used):
            if Path(inspect.getfile(used)).is_relative_to(KEPT.parent):
                yield from sources(used, seen)
        elif not inspect.ismodule(used) and not inspect.isclass(used):
            yield f"{name} = {used!r}"


def described(given: Any) -> Iterator[str]:
    """Give the bytes of models, and everything else as text; a path where nothing is yet says nothing."""
    if isinstance(given, Path):
        for file in sorted(given.rglob("*")):
            if file.is_file() and file.name != "manifest.json":
                yield f"{file.relative_to(given)} {hashlib.sha256(file.read_bytes()).hexdigest()}"
    elif isinstance(given, dict):
        for key in sorted(given):
            yield key
            yield from described(given[key])
    elif isinstance(given, list | tuple):
        yield str(len(given))
        for one in given:
            yield from described(one)
    elif hasattr(given, "model_dump_json"):
        yield given.model_dump_json()
    elif hasattr(given, "backend_tokenizer"):
        yield given.backend_tokenizer.to_str() + str(given.chat_template)
    elif hasattr(given, "named_parameters"):
        yield f"{type(given).__name__} {given.config.to_json_string()}"
        for name, one in given.named_parameters():
            data = one.detach().contiguous().numpy().tobytes()
            yield f"{name} {one.requires_grad} {hashlib.sha256(data).hexdigest()}"
    elif hasattr(given, "peft_type"):
        yield from described(given.to_dict())
    elif isinstance(given, set):
        yield from described(sorted(given))
    elif given is None or isinstance(given, str | int | float | bool):
        yield repr(given)
    else:
        raise TypeError(f"a peer is given {type(given)}, of which nothing is known here: give it folders and settings")
