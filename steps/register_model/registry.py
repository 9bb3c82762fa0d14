"""MLflow: the run, the version and the alias. Every call can be repeated, also if its response was lost.

Only the client is used, with an explicit URI: MLflow's global state belongs to the caller of the step.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from steps.models.layout import COPY_FOLDER
from steps.register_model.candidate import Candidate, Target
from steps.register_model.weights import Weights, gone
from steps.sources import bounded
from steps.tracking import connecting, experiment_id
from steps.tracking.database import make_place

log = logging.getLogger("finetune")

KEY = "registration_key"
ALIAS_BEFORE = "alias_before."  # with an alias: version that held it when this one was created; "" for none
ALIAS_MOVED = "alias_moved."  # with an alias: this version once had it
COPIED = "weights_copied"  # MLflow's artifact store has the weights too


def connect(target: Target) -> Any:
    """Return a client that fails after about a minute without a response."""
    make_place(target.uri)
    return connecting.connect(target.uri, retries=5, seconds=30)


def find_versions(client: Any, name: str, key: str) -> list[Any]:
    """Return the versions that were registered with this key, the oldest first."""
    found = client.search_model_versions(f"name = '{name}' and tags.{KEY} = '{key}'")
    # The server reads a version and its tags one after the other: one that is deleted in between comes without tags.
    found = [version for version in found if "weights_uri" in version.tags]
    return sorted(found, key=lambda version: int(version.version))


def weights_gone(version: Any) -> str:
    """Describe which weights of a version are missing; "" if none, or if MLflow's artifact store has a copy."""
    return "" if version.tags.get(COPIED) else gone(version.tags["weights_uri"])


def open_run(client: Any, candidate: Candidate) -> tuple[Any, bool]:
    """Return the run for the version, and whether this step has to end it.

    This is MLFLOW_RUN_ID if set (by Kubeflow); else the training's run if this server has it; else a run of this
    registration, which an earlier attempt may have created.
    """
    if run_id := os.environ.get("MLFLOW_RUN_ID"):
        return client.get_run(run_id), False
    if run := _run_here(client, candidate.history.get("mlflow_run_id")):
        return run, False
    experiment = experiment_id(client, candidate.target.experiment, candidate.target.uri)
    if earlier := _runs_of(client, experiment, candidate.key):
        return earlier[0], True
    name = f"register {candidate.settings.pipeline}"
    run = client.create_run(experiment, tags={KEY: candidate.key}, run_name=name)
    client.set_terminated(run.info.run_id, "FAILED")  # until the version exists; a killed step could not say so
    return run, True


def delete_other_runs(client: Any, candidate: Candidate, version: Any) -> None:
    """Delete the runs of this registration but for its version's.

    There are others if a request was carried out twice, or if another process registers the same model: which run is
    kept is known only when there is a version, as these have an order that all processes see.
    """
    experiment = experiment_id(client, candidate.target.experiment, candidate.target.uri)
    for run in _runs_of(client, experiment, candidate.key):
        if run.info.run_id != version.run_id:
            _unless("RESOURCE_DOES_NOT_EXIST", client.delete_run, run.info.run_id)


def is_deleted_run(error: Exception) -> bool:
    """Return whether MLflow refuses to write to a run because it was deleted."""
    code = getattr(error, "error_code", "")
    return code == "INVALID_PARAMETER_VALUE" and "must be in the 'active' state" in str(error)


def _runs_of(client: Any, experiment: str, key: str) -> list[Any]:
    """Return the runs of registrations with this key, the oldest first."""
    found = client.search_runs([experiment], f"tags.{KEY} = '{key}'")
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


class StoreError(ConnectionError):
    """An error of the client of MLflow's artifact store."""

    def __init__(self, store: str, error: Exception):
        super().__init__(f"{store}: {type(error).__name__}: {error}")
        self.store = store


def upload(client: Any, run_id: str, folder: Path, place: str) -> None:
    """Upload a folder to the run's artifact store; raises StoreError for any error of the store's client."""
    try:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        bounded.ended(partial(client.log_artifacts, run_id, str(folder), place), bounded.upload_seconds(size))
    except Exception as error:
        # boto3 raises an error of its own while it handles the store's answer, and does not name it as the cause.
        raise StoreError(f"the artifact store of run {run_id}", error) from (
            error.__cause__ or error.__context__ or error
        )


def copy_weights(client: Any, run_id: str, weights: Weights, place: str) -> None:
    """Upload the weights beside the package that `upload` put at `place`. Raises as `upload`."""
    upload(client, run_id, weights.folder, f"{place}/{COPY_FOLDER}")


def place_of(version: Any) -> str:
    """Return the path of a version's package in the artifacts of its run."""
    return str(version.source).rstrip("/").rsplit("/", 1)[-1]


def create_version(
    client: Any, candidate: Candidate, run_id: str, source: str, description: str, tags: dict[str, str]
) -> Any:
    """Create the version once: a second one, created by a repeated request or by another run, is deleted."""
    target = candidate.target
    _unless("RESOURCE_ALREADY_EXISTS", client.create_registered_model, target.name)
    created = client.create_model_version(
        target.name,
        source=source,
        run_id=run_id,
        tags={
            **tags,
            **({COPIED: "true"} if candidate.copies else {}),
            ALIAS_BEFORE + target.alias: alias_holder(client, target),
        },
        description=description,
    )
    found = find_versions(client, target.name, candidate.key)
    return keep_first(client, [version for version in found if not weights_gone(version)] or [created])


def keep_first(client: Any, versions: list[Any]) -> Any:
    """Return the first version of a model; delete the others, as a request may have been carried out twice.

    One that an alias names is in use, and stays.
    """
    first, *more = versions
    used = client.get_registered_model(first.name).aliases.values() if more else ()
    for version in more:
        if str(version.version) in map(str, used):
            continue
        log.info("deleted version %s of %s, the same model as version %s", version.version, first.name, first.version)
        _unless("RESOURCE_DOES_NOT_EXIST", client.delete_model_version, first.name, str(version.version))
    return first


def describe_run(client: Any, run_id: str, candidate: Candidate, version: Any) -> None:
    """Write tags and metrics to the run."""
    from mlflow.entities import Metric, RunTag

    now = int(time.time() * 1000)
    tags = {**candidate.tags, "registered_model": f"{candidate.target.name}/{version.version}"}
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in candidate.numbers.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )


def complete_run(client: Any, candidate: Candidate, version: Any) -> None:
    """End the run of a version whose registration broke off after the version was created."""
    run = _run_here(client, version.run_id)
    if run and run.data.tags.get(KEY) == candidate.key and run.info.status != "FINISHED":
        describe_run(client, version.run_id, candidate, version)
        client.set_terminated(version.run_id)


def move_alias(client: Any, target: Target, version: Any) -> bool:
    """Set the alias to a version, unless it was moved since the version was created; return whether it is set.

    MLflow has no compare-and-set: the alias is compared immediately before it is set and read again afterwards, so two
    processes that set it within one round trip both read the final holder. A version that once had the alias never
    takes it back.
    """
    from mlflow.exceptions import MlflowException

    ours = str(version.version)  # a number from a database, text from a server
    holder = alias_holder(client, target)
    expected = version.tags.get(ALIAS_BEFORE + target.alias, holder)  # without a tag, it never was to have this alias
    if holder == ours:
        return True
    if ALIAS_MOVED + target.alias in version.tags or holder != expected:
        log.warning("WARNING alias %s of %s stays at version %s: another run or a user moved it in the meantime",
                    target.alias, target.name, holder or "none")  # fmt: skip
        return False
    try:
        client.set_registered_model_alias(target.name, target.alias, ours)
    except MlflowException:
        # If two processes set a new alias at once, both insert it, and the database accepts only one.
        if alias_holder(client, target) == expected:
            raise
    else:
        client.set_model_version_tag(target.name, ours, ALIAS_MOVED + target.alias, "true")
    return alias_holder(client, target) == ours


def alias_holder(client: Any, target: Target) -> str:
    """Return the version that has the alias; "" for none."""
    return str(client.get_registered_model(target.name).aliases.get(target.alias, ""))


def _run_here(client: Any, run_id: str | None) -> Any | None:
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id) if run_id else None
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None  # the training was tracked on another server
    return run if run and run.info.lifecycle_stage == "active" else None


def _unless(code: str, call: Callable[..., Any], *arguments: Any) -> None:
    """Call MLflow; the error `code`, which means that the work is already done, is a success."""
    from mlflow.exceptions import MlflowException

    try:
        call(*arguments)
    except MlflowException as error:
        if error.error_code != code:
            raise
