"""The command `finetune verify`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from steps.errors import StepError

SIGNS = {True: "ok", False: "WRONG", None: "not checked"}


@click.command()
@click.argument("model", metavar="MODEL[/VERSION|@ALIAS]")
@click.option("--key", type=click.Path(path_type=Path), metavar="FILE", help="Public key of the signer, as PEM.")
@click.option("--mlflow-server-uri", default="", metavar="URI", help="The registry; default: MLFLOW_TRACKING_URI.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
              help="Folder of local runs, whose registry is used if no other is named.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def verify(model: str, key: Path | None, mlflow_server_uri: str, root: Path, as_json: bool) -> None:
    """Check that a registered model is as it was registered.

    MODEL is a version in the registry (dates is its latest, dates/3, dates@champion) or a folder (./dates). Every file
    is compared with its sha256, the provenance with the version's tags, the signature with the key. Ends with 0 if all
    is as it was registered, 3 if not, 2 if there is no such model, or no key for one that is signed.
    """
    from steps.params.registration import database_in
    from steps.running import failure, leave, run_here

    try:
        server = mlflow_server_uri or os.environ.get("MLFLOW_TRACKING_URI") or database_in(root)
        report, error = run_here("verify-model", model=model, key=key, mlflow_server_uri=server), None
    except StepError as raised:
        if raised.report is None:
            raise
        report, error = raised.report, raised
    outcome = failure(error, "verify").as_json("verify") if error else None
    click.echo(json.dumps({**report, "error": outcome}, indent=1, ensure_ascii=False) if as_json else table(report))
    if outcome:
        leave(outcome, quiet=as_json)


def table(report: dict[str, Any]) -> str:
    """Return the rows of a report as text."""
    rows = [(SIGNS[row["ok"]], row["what"], row["told"]) for row in report["checks"]]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{sign:<{widths[0]}}  {what:<{widths[1]}}  {told}" for sign, what, told in rows]
    return "\n".join([f"{report['model']}: {report['verdict']}", *lines])
