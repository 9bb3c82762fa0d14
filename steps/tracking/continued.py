"""The MLflow run of a training, remembered beside its checkpoints: a resumed training continues it.

A process that is killed cannot end its run. The next training below the same root does, or `finetune prune`.
"""

from __future__ import annotations

import fcntl
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from steps.artifacts import write_durably
from steps.errors import Outage, Problem
from steps.redaction import masked
from steps.tracking.connecting import connect

log = logging.getLogger("finetune")

FILE = "mlflow-run.json"
LOCK = ".lock"  # of a folder of checkpoints: held while its training is active


@dataclass(frozen=True)
class Remembered:
    """A run of a training."""

    server: str
    """Tracking URI without credentials."""
    run_id: str
    status: str = "RUNNING"
    """How the training ended, as far as MLflow was told; RUNNING before."""


def remember(folder: Path, server: str, run_id: str, status: str = "RUNNING") -> None:
    """Write a run into the folder of its checkpoints, if that has room: the server is told either way."""
    told = Remembered(str(masked(server)), run_id, status)
    with suppress(OSError):  # raised, it would look like a server that does not answer
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / FILE, json.dumps(asdict(told), indent=1))


def remembered(folder: Path, server: str) -> Remembered | None:
    """Return the run that this server has of a training; None if there is none."""
    told = _read(folder)
    return told if told and told.server == str(masked(server)) else None


def _read(folder: Path) -> Remembered | None:
    try:
        told = Remembered(**json.loads((folder / FILE).read_text(encoding="utf-8")))
        return told if all(isinstance(value, str) for value in vars(told).values()) else None
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def is_open(folder: Path) -> bool:
    """Return whether a training has a run that was not told that it finished."""
    told = _read(folder)
    return told is not None and told.status != "FINISHED"


def known_so_far(client: Any, run_id: str) -> tuple[set[str], dict[str, int]]:
    """Return the names of a run's parameters, and the last step of each of its metrics."""
    data = client.get_run(run_id).data
    steps = {name: max(one.step for one in client.get_metric_history(run_id, name)) for name in data.metrics}
    return set(data.params), steps


def end_abandoned(client: Any, server: str, root: Path) -> list[str]:
    """Set runs whose training is not active any more, but never told so, to KILLED; return their ids.

    `root` holds the folders of checkpoints. Raises what MLflow raises.
    """
    return [told.run_id for folder, told in _open(root, server) if end_killed(client, server, folder, told)]


def end_killed(client: Any, server: str, folder: Path, told: Remembered) -> bool:
    """Set one run to KILLED, as of the last change in its folder, if the server still shows it as running."""
    from mlflow.exceptions import MlflowException

    try:
        running = client.get_run(told.run_id).info.status == "RUNNING"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        running = False
    if running:
        last = max(int(path.stat().st_mtime * 1000) for path in (folder, *folder.iterdir()))
        client.set_terminated(told.run_id, "KILLED", last)
        log.info("closed the MLflow run %s of a training that was killed", told.run_id)
    remember(folder, server, told.run_id, "KILLED")
    return running


def _open(root: Path, server: str) -> Iterator[tuple[Path, Remembered]]:
    for file in sorted(root.glob(f"*/*/{FILE}")):
        told = remembered(file.parent, server)
        if told is None or told.status != "RUNNING":
            continue
        with open(file.with_name(LOCK), "a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield file.parent, told


def close_runs(root: Path) -> list[str]:
    """End the runs of all killed trainings below a folder of checkpoints, on whatever server; return their ids.

    Raises Outage if a server does not answer.
    """
    folders = [file.parent for file in root.glob(f"*/*/{FILE}")]
    servers = {told.server for folder in folders if (told := _read(folder)) and told.status == "RUNNING"}
    closed: list[str] = []
    for server in sorted(servers):
        try:
            closed += end_abandoned(connect(server), server, root)
        except Exception as error:  # every store has its own exceptions
            raise Outage(
                Problem(
                    "TRACK-E0402", f"MLflow at {server}", str(masked(str(error)))[:200], "an answer", "run this again"
                )
            ) from error
    return closed
