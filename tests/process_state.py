"""What the tests of a worker share, because they run in one process: no test finds there what another one left.

What a step sets in its process by design is set back without a word. For all else that a test leaves it fails.
"""

from __future__ import annotations

import gc
import locale
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# pytest's own, and those that mlflow sets when it is imported, once in a process.
KEPT = {"PYTEST_CURRENT_TEST", "_MLFLOW_TELEMETRY_SESSION_ID"}
MLFLOW_STORES = (
    ("mlflow.tracking._tracking_service.utils", "_tracking_uri"),
    ("mlflow.tracking._model_registry.utils", "_registry_uri"),
    ("mlflow.tracking.fluent", "_active_experiment_id"),
)
SIGNALS = [number for number in signal.valid_signals() if number not in (signal.SIGKILL, signal.SIGSTOP)]


@dataclass(frozen=True)
class Part:
    """One part of the state of a process."""

    name: str
    read: Callable[[], Any]
    """None if it is not there yet, such as torch's before torch is imported."""
    write: Callable[[Any], object]
    by_steps: bool = False
    """Steps change it, in the process that runs them."""


def state() -> dict[str, Any]:
    """Read all parts."""
    return {part.name: part.read() for part in PARTS}


def put_back(before: dict[str, Any]) -> list[str]:
    """Set all parts to what they were; return those that no test may change, with what was found."""
    told = []
    for part in PARTS:
        wanted, found = before[part.name], part.read()
        if wanted is None or wanted == found:
            continue
        part.write(wanted)
        if not part.by_steps:
            told.append(f"{part.name}: {found}, before it {wanted}")
    return told


def seed() -> None:
    """Let numpy and torch, if they are loaded, begin with the same random numbers in every test."""
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(0)
    if torch := _torch():
        torch.manual_seed(0)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in KEPT}


def _set_environment(wanted: dict[str, str]) -> None:
    for name in _environment().keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in SIGNALS}


def _set_handlers(wanted: dict[int, Any]) -> None:
    for number, handler in wanted.items():
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _of_logger(name: str) -> Part:
    logger = logging.getLogger(name)

    def handlers(of_pytest: bool) -> list[logging.Handler]:
        return [one for one in logger.handlers if type(one).__module__.startswith("_pytest") == of_pytest]

    def read() -> tuple[Any, ...]:
        return handlers(of_pytest=False), logger.level, logger.propagate, logger.disabled

    def write(wanted: tuple[Any, ...]) -> None:
        mine, level, logger.propagate, logger.disabled = wanted
        logger.handlers[:] = [*handlers(of_pytest=True), *mine]
        logger.setLevel(level)

    return Part(f"log {name}".strip(), read, write, by_steps=True)


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "a folder that is gone"


def _umask() -> int:
    """Read it without changing it: another thread may write a file in that moment."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask"))
    return int(line.split()[1], 8)


def _set_collection(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()


def _torch() -> Any:
    """Return torch if it is loaded, whole."""
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "compile") else None


def _of_torch(read: str, write: str) -> Part:
    def value() -> Any:
        return getattr(torch, read)() if (torch := _torch()) else None

    return Part(f"torch.{read}", value, lambda wanted: getattr(_torch(), write)(wanted))


def _mlflow_stores() -> tuple[Any, ...]:
    """What MLflow was told to use instead of the stores that the environment names; nothing before it is loaded."""
    return tuple(getattr(sys.modules.get(module), name, None) for module, name in MLFLOW_STORES)


def _set_mlflow_stores(wanted: tuple[Any, ...]) -> None:
    for (module, name), value in zip(MLFLOW_STORES, wanted, strict=True):
        if module in sys.modules:
            setattr(sys.modules[module], name, value)


PARTS = (
    Part("environment", _environment, _set_environment, by_steps=True),
    Part("signal handlers", _handlers, _set_handlers, by_steps=True),
    _of_logger("finetune"),
    _of_logger(""),
    Part("working directory", _directory, os.chdir),
    Part("umask", _umask, os.umask),
    Part("sys.path", lambda: list(sys.path), lambda wanted: sys.path.__setitem__(slice(None), wanted)),
    Part("locale", lambda: locale.setlocale(locale.LC_ALL), lambda wanted: locale.setlocale(locale.LC_ALL, wanted)),
    Part("socket timeout", lambda: (socket.getdefaulttimeout(),), lambda wanted: socket.setdefaulttimeout(*wanted)),
    Part("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Part("garbage collection", gc.isenabled, _set_collection),
    Part("stores of mlflow", _mlflow_stores, _set_mlflow_stores),
    _of_torch("get_default_dtype", "set_default_dtype"),
    _of_torch("get_num_threads", "set_num_threads"),
    _of_torch("is_grad_enabled", "set_grad_enabled"),
    _of_torch("are_deterministic_algorithms_enabled", "use_deterministic_algorithms"),
)
