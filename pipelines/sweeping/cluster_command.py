"""`finetune sweep --endpoint`: a sweep on Kubeflow Pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from steps.errors import Problem, UserError

if TYPE_CHECKING:
    from pipelines.sweeping.cluster import ClusterSweep

# Options that mean nothing without --endpoint, with the values that they have if they are not given.
UNUSED = {"experiment": "", "service_account": "", "no_plan": False, "wait": True, "profile": None, "image_prefix": "",
          "images": (), "namespace": None, "token": None, "ca_cert": None, "verify_tls": True,
          "kube_context": None}  # fmt: skip


def is_meant(options: dict[str, Any]) -> bool:
    """Return whether a sweep runs on a cluster. Raises UserError for options of a cluster without --endpoint."""
    if options["endpoint"]:
        return True
    if given := [name for name, usual in UNUSED.items() if options[name] != usual]:
        named = ", ".join(f"--{name.removesuffix('s') if name == 'images' else name.replace('_', '-')}"
                          for name in given)  # fmt: skip
        raise UserError(
            Problem("CLI-E0104", "finetune sweep", f"{named} without --endpoint", "the address of Kubeflow Pipelines",
                    "add --endpoint https://…, or leave them out for a sweep on this machine")
        )  # fmt: skip
    return False


def sweep(
    file: Path | None,
    pipeline: str,
    given: dict[str, Any],
    name: str,
    plan_only: bool,
    status: bool,
    as_json: bool,
    options: dict[str, Any],
) -> None:
    """Start, open, plan or show a sweep on Kubeflow Pipelines, and follow it."""
    from pipelines.client.commands import read_compiling, read_connection
    from pipelines.sweeping.cluster import ClusterSweep, plan_for_cluster, start_on_cluster

    def tell(line: str) -> None:
        click.echo(line, err=as_json)

    options = dict(options)
    connection, compiling = read_connection(options), read_compiling(options)
    followed = options.pop("wait")
    planned = not options.pop("no_plan")
    if file:
        from pipelines.sweeping.file import read_sweep

        described = read_sweep(file, pipeline, **given)
        if plan_only:
            tell(plan_for_cluster(described, tell=tell, **compiling))
            return
        made = start_on_cluster(described, connection, plan=planned, tell=tell, **compiling, **options)
    else:
        made = ClusterSweep.open(name, connection)
        if not (status or plan_only):
            made.resume()
    if followed and not (status or plan_only):
        _follow(made, as_json)
        return
    _show(made, as_json)


def _follow(sweep: ClusterSweep, as_json: bool) -> None:
    from pipelines.sweeping.handle import SweepFailed
    from steps.running import leave

    error = None
    try:
        sweep.wait(show=not as_json)
    except SweepFailed as failed:
        error = failed.outcome
    except (KeyboardInterrupt, Exception):
        click.echo(f"not followed any more; the sweep goes on: finetune sweep --open {sweep.name} --endpoint "
                   f"{sweep.server.endpoint}", err=True)  # fmt: skip
        raise
    _show(sweep, as_json, error)
    if error:
        leave(error, quiet=as_json)


def _show(sweep: ClusterSweep, as_json: bool, error: dict[str, Any] | None = None) -> None:
    facts = sweep.facts
    if as_json:
        click.echo(json.dumps({**facts, "status": facts["state"], "error": error}, indent=1, ensure_ascii=False))
    else:
        click.echo(repr(sweep))
