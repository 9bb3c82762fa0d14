"""A run on an MLflow server: created when the server first answers; every call can be repeated."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from steps.params.registration import SQLITE
from steps.tracking.connecting import connect
from steps.tracking.continued import end_killed, known_so_far, remember, remembered
from steps.tracking.database import make_place
from steps.tracking.records import Record, TrackedRun

MOST_METRICS, MOST_PARAMETERS = 900, 100  # MLflow accepts 1,000 and 100 per call
RUN_KEY = "finetune_run_key"
# Errors that a retry does not change.
REFUSALS = {
    "INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED", "UNAUTHENTICATED",
    "INVALID_STATE", "ENDPOINT_NOT_FOUND",
}  # fmt: skip


class Store:
    """One run on one server; may be used by several threads."""

    def __init__(self, uri: str, run: TrackedRun, folder: Path | None = None, continues: bool = False):
        """`folder` holds the training's checkpoints; with `continues` its run, if remembered there, is continued."""
        self.uri, self.run = uri, run
        self.folder, self.continues = folder, continues
        self._parameters: set[str] = set()
        self._last: dict[str, int] = {}
        self._opening = threading.Lock()
        self._tried = False
        self._client: Any = None

    def client(self) -> Any:
        """Connect, and create the run if it does not exist; raises what MLflow raises."""
        with self._opening:
            if self._client is not None:
                return self._client
            make_place(self.uri)
            client = connect(self.uri)
            if self.run.run_id:
                self._parameters, self._last = known_so_far(client, self.run.run_id)
            else:
                if not self._resume(client):
                    self._begin(client)
            self._client = client
            return client

    def _resume(self, client: Any) -> bool:
        """Continue the run that an earlier process of this training began, or end it; return whether it continues."""
        told = remembered(self.folder, self.uri) if self.folder else None
        if told is None or self.folder is None:
            return False
        if not self.continues:
            if told.status == "RUNNING":
                end_killed(client, self.uri, self.folder, told)
            return False
        try:
            if client.get_run(told.run_id).info.lifecycle_stage != "active":
                return False
            self._parameters, self._last = known_so_far(client, told.run_id)
            client.update_run(told.run_id, status="RUNNING")
        except Exception as error:
            if not is_refusal(error):
                raise
            return False  # it was deleted
        self.run.run_id = told.run_id
        remember(self.folder, self.uri, told.run_id)
        return True

    def _begin(self, client: Any) -> None:
        self.run.run_id = self._open(client)
        if self.folder:
            remember(self.folder, self.uri, self.run.run_id)

    def send(self, records: list[Record]) -> None:
        """Send records in order, in few calls; raises what MLflow raises."""
        from mlflow.entities import Metric, Param, RunTag

        client, run_id = self.client(), self.run.run_id
        metrics = [
            Metric(name, value, record["time"], record["step"])
            for record in records
            for name, value in record.get("metrics", {}).items()
            if record["step"] > self._last.get(name, -1)
        ]
        given = [pair for record in records for pair in record.get("parameters", {}).items()]
        parameters = [Param(*pair) for pair in given if pair[0] not in self._parameters]
        for start in range(0, len(metrics), MOST_METRICS):
            client.log_batch(run_id, metrics=metrics[start : start + MOST_METRICS])
        for start in range(0, len(parameters), MOST_PARAMETERS):
            client.log_batch(run_id, params=parameters[start : start + MOST_PARAMETERS])
        tags = [RunTag(*pair) for record in records for pair in record.get("tags", {}).items()]
        if tags:
            client.log_batch(run_id, tags=tags)
        for record in records:
            if "status" in record and self.run.ours:
                client.set_terminated(run_id, record["status"], record["time"])
                if self.folder:
                    remember(self.folder, self.uri, run_id, record["status"])

    def _open(self, client: Any) -> str:
        run = self.run
        experiment = experiment_id(client, run.experiment, self.uri)
        # An earlier attempt may have created it although its answer was lost.
        if self._tried and (found := client.search_runs([experiment], f"tags.{RUN_KEY} = '{run.key}'", max_results=1)):
            return found[0].info.run_id
        self._tried = True
        tags = {**run.tags, RUN_KEY: run.key}
        return client.create_run(experiment, start_time=run.started, tags=tags, run_name=run.name).info.run_id

    def reopen(self) -> None:
        """Search for the run before creating it, because another process may have created it."""
        self._tried = True


def is_refusal(error: Exception) -> bool:
    """Return whether a server rejected a request, as opposed to not answering or failing."""
    return getattr(error, "error_code", "") in REFUSALS


def experiment_id(client: Any, name: str, uri: str) -> str:
    """Find or create an experiment; also works if two processes create it at the same time."""
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
    """Return the artifact folder of a store without a server: beside the database, not in the working directory."""
    if not uri.startswith(SQLITE):
        return None
    return str(Path(uri.removeprefix(SQLITE)).absolute().parent / "mlartifacts")
