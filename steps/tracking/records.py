"""Records for MLflow, and the file of records that could not be sent.

A record is {"metrics": {name: number}, "step": 3, "time": milliseconds}, {"parameters": {name: text}},
{"tags": {name: text}} or {"status": "FINISHED", "time": milliseconds}. The first line of a file is their run.
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
    """A run that exists, or will be created, on the server."""

    name: str
    experiment: str
    tags: dict[str, str] = field(default_factory=dict)
    started: int = field(default_factory=lambda: now())
    """Start time, in milliseconds since 1970."""
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """Value of a tag that finds the run again if the server's answer to its creation was lost."""
    run_id: str = ""
    ours: bool = True
    """Whether we opened the run and must end it."""


def now() -> int:
    """Return the milliseconds since 1970, as MLflow expects them."""
    return int(time.time() * 1000)


def write_unsent(file: Path, run: TrackedRun, records: list[Record]) -> None:
    """Write the records that the server did not accept."""
    lines = [{"run": asdict(run)}, *records]
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def read_unsent(file: Path) -> tuple[TrackedRun, list[Record]]:
    """Read such a file. Raises ValueError, KeyError or TypeError for any other file."""
    head, *records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return TrackedRun(**head["run"]), records


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested values to dotted names."""
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves.update(flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item})
    return leaves
