"""The run on an MLflow server: opened when the server first answers, and every call may be repeated."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

from steps.tracking.records import Record, TrackedRun
from steps.tracking.target import SQLITE, make_place

MOST_METRICS, MOST_PARAMETERS = 900, 100  # MLflow takes 1,000 and 100 in one call
RUN_KEY = "finetune_run_key"
# MLflow's own bounds keep a thread for a quarter of an hour on a server that is down; here it is asked again anyway.
PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
# Answers that would be the same next time.
REFUSALS = {
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "UNAUTHENTICATED",
    "INVALID_STATE", "ENDPOINT_NOT_FOUND",
}  # fmt: skip


class Store:
    """One run on one server; may be used by several threads."""

    def __init__(self, uri: str, run: TrackedRun):
        self.uri, self.run = uri, run
        self._opening = threading.Lock()
        self._tried = False
        self._client: Any = None

    def client(self) -> Any:
        """Connect, and open the run if nobody has; raises what MLflow raises."""
        with self._opening:
            if self._client is not None:
                return self._client
            for name, value in PATIENCE.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            make_place(self.uri)
            client = MlflowClient(tracking_uri=self.uri)
            if not self.run.run_id:
                self.run.run_id = self._open(client)
            self._client = client
            return client

    def send(self, records: list[Record]) -> None:
        """Send records in their order, in few calls; raises what MLflow raises."""
        from mlflow.entities import Metric, Param

        client, run_id = self.client(), self.run.run_id
        metrics = [
            Metric(name, value, record["time"], record["step"])
            for record in records
            for name, value in record.get("metrics", {}).items()
        ]
        parameters = [Param(*pair) for record in records for pair in record.get("parameters", {}).items()]
        for start in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
        for start in range(0, len(parameters), MOST_PARAMETERS):
            client.log_batch(run_id, params=parameters[start : start + MOST_PARAMETERS])
        for record in records:
            if "status" in record and self.run.ours:
                client.set_terminated(run_id, record["status"], record["time"])

    def _open(self, client: Any) -> str:
        run = self.run
        experiment = experiment_id(client, run.experiment, self.uri)
        # An earlier try may have opened it without our hearing the answer.
        if self._tried and (found := client.search_runs([experiment], f"tags.{RUN_KEY} = '{run.key}'", max_results=1)):
            return found[0].info.run_id
        self._tried = True
        tags = {**run.tags, RUN_KEY: run.key}
        return client.create_run(experiment, start_time=run.started, tags=tags, run_name=run.name).info.run_id

    def reopen(self) -> None:
        """Look for the run before opening it: it may be there from another process."""
        self._tried = True


def is_refusal(error: Exception) -> bool:
    """Return whether a server said no, other than not answering or being at a loss."""
    return getattr(error, "error_code", "") in REFUSALS


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
    if not uri.startswith(SQLITE):
        return None
    return str(Path(uri.removeprefix(SQLITE)).absolute().parent / "mlartifacts")
