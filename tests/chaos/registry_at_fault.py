"""An MLflow server behind the fault proxy, and registrations with it."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaos_row import Row
from fault_proxy import Fault, FaultProxy
from registering import settings

from steps.errors import Outage
from steps.register_model.step import register_model
from steps.sources import bounded

LIMIT = 4.0  # seconds, in place of bounded.LONGEST
# Requests of a registration: what they are, method and path.
REQUESTS = {
    "the registered model": ("POST", "registered-models/create"),
    "the version": ("POST", "model-versions/create"),
    "the run": ("POST", "runs/create"),
    "its tags": ("POST", "runs/log-batch"),
    "the alias": ("POST", "registered-models/alias"),
    "the artifacts": ("PUT", "mlflow-artifacts"),
    "the search": ("GET", "model-versions/search"),
    "everything": ("", ""),
}
FIRST = """
import sys
from steps.tracking.connecting import connect
from steps.tracking.database import make_place
make_place(sys.argv[1])
connect(sys.argv[1]).create_registered_model(sys.argv[2])
"""


@dataclass
class Registry:
    """What is registered, the proxy before the server, and the address of the server itself."""

    proxy: FaultProxy
    direct: str
    world: dict[str, Path]
    folder: Path

    def register(self, trial: int, result: Path | None = None) -> None:
        """Register the model of this trial through the proxy; `result` is the folder that is written."""
        world = {**self.world, "registration": result or self.world["registration"]}
        shutil.rmtree(world["registration"], ignore_errors=True)
        given = settings(
            max_new_tokens=8 + trial, registration={"registered_model_name": f"model-{trial}"},
            tracking={"mlflow_server_uri": self.proxy.url},
        )  # fmt: skip
        register_model(given, **world)

    def stored(self, trial: int) -> tuple[int, set[str], str]:
        """Return the number of versions, the states of their runs, and the holder of the alias."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.direct)
        versions = client.search_model_versions(f"name = 'model-{trial}'")
        key = {version.tags["registration_key"] for version in versions}
        runs: list[Any] = []
        for one in key:
            runs += client.search_runs(["0", *_experiments(client)], f"tags.registration_key = '{one}'")
        alias = client.get_registered_model(f"model-{trial}").aliases.get("champion", "")
        return len(versions), {run.info.status for run in runs} | {f"{len(runs)} runs"}, str(alias)


def _experiments(client: Any) -> list[str]:
    return [one.experiment_id for one in client.search_experiments()]


def whole(registry: Registry, trial: int, about: str) -> str:
    """Return what is wrong with the registration of a trial."""
    versions, runs, alias = registry.stored(trial)
    if versions != 1 or runs != {"FINISHED", "1 runs"} or not alias:
        return f"{versions} versions, {sorted(runs)}, alias at {alias or 'none'} after {about}"
    return ""


def lost(registry: Registry, trial: int, draw: random.Random) -> str:
    """A request is carried out and its answer is lost, once or always; repeated, it is one version."""
    what = list(REQUESTS)[trial % (len(REQUESTS) - 2)]
    kind, often = draw.choice(["lost", "500post"]), draw.random() < 0.4
    method, path = REQUESTS[what]
    registry.proxy.play(Fault(kind, path, (method,), 1, 1_000_000 if often else draw.randint(1, 2)))
    about = f"{kind} of {what}, {'always' if often else 'once'}"
    try:
        with _limited():
            registry.register(trial)
    except Outage as error:
        if not error.resume_from.startswith("python -m steps register-model "):
            return f"no command that finishes it after {about}"
    registry.proxy.play()
    registry.register(trial)
    return whole(registry, trial, about)


def away(registry: Registry, trial: int, draw: random.Random) -> str:
    """The server answers with errors or hangs: an outage when the limit is over, and a repetition finishes it."""
    what = draw.choice(list(REQUESTS))
    kind = draw.choice(["503", "hang", "trickle", "reset", "garbage", "page"])
    method, path = REQUESTS[what]
    registry.proxy.play(Fault(kind, path, (method,) if method else (), seconds=0.3 if kind == "trickle" else 600))
    about, began = f"{kind} of {what}", time.monotonic()
    try:
        with _limited():
            registry.register(trial)
        if what == "everything":
            return f"no error after {about}"
    except Outage as error:
        if not error.resume_from.startswith("python -m steps register-model "):
            return f"no command that finishes it after {about}"
    if time.monotonic() - began > 8 * LIMIT + 30:  # a busy machine
        return f"{time.monotonic() - began:.0f} s with {about}"
    registry.proxy.play()
    registry.register(trial)
    return whole(registry, trial, about)


def first_use(registry: Registry, trial: int, draw: random.Random) -> str:
    """Two processes use a new database at the same time, for models of their own."""
    uri = f"sqlite:///{registry.folder}/new-{trial}/mlflow.db"
    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(lambda name: subprocess.run([sys.executable, "-c", FIRST, uri, name]).returncode, "ab"))
    return "" if codes == [0, 0] else f"codes {codes}"


def twice(registry: Registry, trial: int, draw: random.Random) -> str:
    """The same registration begins two or three times at nearly the same moment, as when a schedule fires twice."""
    delays = [0.0, *(draw.choice([0.0, draw.uniform(0, 0.5)]) for _ in range(draw.randint(1, 2)))]

    def register(number: int) -> None:
        time.sleep(delays[number])
        registry.register(trial, registry.folder / f"twice-{trial}-{number}")

    registry.proxy.play()
    with ThreadPoolExecutor(len(delays)) as pool:
        list(pool.map(register, range(len(delays))))
    return whole(registry, trial, f"{len(delays)} at once")


@contextmanager
def _limited() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded, "LONGEST", LIMIT)
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        yield


ROWS = [
    Row(10, "MLflow is away", away, "registry", long=40),
    Row(11, "an answer of MLflow is lost", lost, "registry", long=40),
    Row(12, "two first uses of a database at once", first_use, "registry", long=10),
    Row(12, "the same registration twice at once", twice, "registry", short=2, long=100),
]
