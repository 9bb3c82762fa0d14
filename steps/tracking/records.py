"""What is sent to MLflow, one record for each call, and the file of those that could not be.

A record is {"metrics": {name: number}, "step": 3, "time": milliseconds}, {"parameters": {name: text}} or
{"status": "FINISHED", "time": milliseconds}. A file begins with the run that they belong to.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]

UNSENT = "unsent-metrics.jsonl"


@dataclass
class TrackedRun:
    """A run as it is, or is to be, on the server."""

    name: str
    experiment: str
    tags: dict[str, str] = field(default_factory=dict)
    started: int = field(default_factory=lambda: now())
    """Milliseconds."""
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """A tag by which a run is found again whose opening was answered by nobody."""
    run_id: str = ""
    ours: bool = True
    """Whether it is ours to end."""


def now() -> int:
    """Milliseconds since 1970, as MLflow counts them."""
    return int(time.time() * 1000)


def write_unsent(file: Path, run: TrackedRun, records: list[Record]) -> None:
    """Write what a server did not take."""
    lines = [{"run": asdict(run)}, *records]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_unsent(file: Path) -> tuple[TrackedRun, list[Record]]:
    """Read such a file. Raises ValueError, KeyError or TypeError when it is none."""
    head, *records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return TrackedRun(**head["run"]), records


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values dotted names."""
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves.update(flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item})
    return leaves
