"""Metrics to MLflow, from a thread of its own: a tracking server that is slow or down never holds a training up.

Where to: the parameter mlflow_server_uri, else MLFLOW_TRACKING_URI, else nowhere. A run that Kubeflow has opened
(MLFLOW_RUN_ID) is used instead of a new one. What could not be sent is said once, and is still in history.json.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.params.registration import TrackingParams

log = logging.getLogger("finetune")

FLUSH_SECONDS = 30.0  # a run must not wait longer than this for its tracking server at the end
LONGEST_VALUE = 6000  # MLflow's bound on a parameter's text


class Tracker:
    """One tracked run; every method returns at once."""

    def __init__(self, tracking: TrackingParams, name: str):
        self.uri = tracking.mlflow_server_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self.experiment = tracking.experiment_name
        self.name = name
        self._run_id: str | None = os.environ.get("MLFLOW_RUN_ID")
        self._answered = threading.Event()  # the server has taken the run, or refused it
        self._jobs: queue.Queue[Callable[[Any], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="tracking", daemon=True)

    def __enter__(self) -> Tracker:
        if self.uri:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.uri:
            return
        status = "FINISHED" if kind is None else "FAILED"
        if "MLFLOW_RUN_ID" not in os.environ:
            self._jobs.put(lambda client: client.set_terminated(self._run_id, status))
        self._jobs.put(None)
        self._thread.join(FLUSH_SECONDS)
        if self._thread.is_alive():
            log.warning("WARNING MLflow at %s did not take every metric within %.0f s", self.uri, FLUSH_SECONDS)

    def run_id(self) -> str | None:
        """The run's id, as soon as the server has answered; None when there is no server, or none that answers."""
        if self.uri:
            self._answered.wait(FLUSH_SECONDS)
        return self._run_id

    def parameters(self, values: dict[str, Any]) -> None:
        """Record settings; nested ones get dotted names."""
        texts = {key: str(value)[:LONGEST_VALUE] for key, value in flat(values).items()}

        def send(client: Any) -> None:
            from mlflow.entities import Param

            client.log_batch(self._run_id, params=[Param(key, value) for key, value in texts.items()])

        self._jobs.put(send)

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Record numbers of one step; what is not finite is left out, for MLflow refuses it."""
        now = int(time.time() * 1000)

        def send(client: Any) -> None:
            from mlflow.entities import Metric

            finite = {key: float(value) for key, value in values.items() if math.isfinite(value)}
            client.log_batch(self._run_id, metrics=[Metric(key, value, now, step) for key, value in finite.items()])

        self._jobs.put(send)

    def _send(self) -> None:
        failures = 0
        client = None
        while (job := self._jobs.get()) is not None:
            try:
                client = client or self._connect()
                self._answered.set()
                job(client)
            except Exception as error:  # whatever goes wrong there, the training goes on
                failures += 1
                self._answered.set()
                if failures == 1:
                    log.warning("WARNING MLflow at %s: %s; training goes on", self.uri, _first_line(error))
                if failures >= 3 and client is None:
                    return

    def _connect(self) -> Any:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        if self._run_id is None:
            experiment = experiment_id(client, self.experiment, self.uri)
            self._run_id = client.create_run(experiment, run_name=self.name).info.run_id
        return client


def experiment_id(client: Any, name: str, uri: str) -> str:
    """Find an experiment by name, or make it; two that make it at once both get it."""
    from mlflow.exceptions import MlflowException

    if known := client.get_experiment_by_name(name):
        return known.experiment_id
    try:
        return client.create_experiment(name, artifact_location=_artifact_location(uri))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return client.get_experiment_by_name(name).experiment_id


def _artifact_location(uri: str) -> str | None:
    """Where a store without a server keeps its files: beside the database, not in whatever folder the step runs in."""
    if not uri.startswith("sqlite:///"):
        return None
    return str(Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts")


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give nested values dotted names."""
    leaves: dict[str, Any] = {}
    for key, item in value.items():
        leaves.update(flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {f"{prefix}{key}": item})
    return leaves


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
