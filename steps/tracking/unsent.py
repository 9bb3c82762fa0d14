"""Send the metrics that a training run could not send."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from steps.errors import Outage, Problem, UserError
from steps.redaction import masked
from steps.tracking.records import Record, TrackedRun, read_unsent
from steps.tracking.store import Store, is_refusal
from steps.tracking.target import store_of

log = logging.getLogger("finetune")
AT_A_TIME = 200


def send_metrics(file: Path, mlflow_server_uri: str = "") -> str:
    """Send a file of unsent metrics and return the run's id; sending it twice changes nothing.

    Raises UserError for another file, without a server, or if the server refuses; Outage if it does not answer.
    """
    uri = store_of(mlflow_server_uri or os.environ.get("MLFLOW_TRACKING_URI", ""))
    if not uri:
        raise UserError(
            Problem("TRACK-E0201", "mlflow_server_uri", "nothing, and no MLFLOW_TRACKING_URI", "an MLflow server",
                    "name the server for the metrics")
        )  # fmt: skip
    try:
        run, records = read_unsent(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            Problem("TRACK-E0202", str(file), f"{type(error).__name__}: {error}", "a file of unsent metrics",
                    "name the file unsent-metrics.jsonl of a tuned model")
        ) from error  # fmt: skip
    try:
        return send_records(uri, run, records)
    except Exception as error:
        said, where = str(masked(str(error)))[:300], f"MLflow at {masked(uri)}"
        if is_refusal(error):
            raise UserError(
                Problem(
                    "TRACK-E0203",
                    where,
                    said,
                    "a server that accepts the records",
                    "see the server's message",
                )
            ) from error
        raise Outage(Problem("TRACK-E0401", where, said, "an answer", "run this again")) from error


def send_records(uri: str, run: TrackedRun, records: list[Record]) -> str:
    """Send records to their run, which is created if missing, and return its id; raises what MLflow raises."""
    store = Store(uri, run)
    store.reopen()
    for start in range(0, len(records), AT_A_TIME):
        store.send(records[start : start + AT_A_TIME])
    log.info("sent %d records to run %s", len(records), run.run_id)
    return run.run_id
