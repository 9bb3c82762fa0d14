"""The command `finetune sweep`."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import click

from pipelines.client.commands import cluster_options
from steps.errors import Problem, UserError
from steps.outlets import wholly


@click.command("sweep")
@click.argument("pipeline", required=False, metavar="[PIPELINE]")
@click.option("-f", "--file", "file", type=click.Path(path_type=Path), help="YAML file that describes the sweep.")
@click.option("--open", "name", default="", metavar="NAME", help="Go on with a sweep that was begun, by its name.")
@click.option("--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
              help="Folder for runs and sweeps.")  # fmt: skip
@click.option("--max-parallel", type=int, help="Trials at the same time; replaces that of the file.")
@click.option("--budget", type=int, help="Number of trials; replaces that of the file.")
@click.option("--name", "new_name", default=None, metavar="NAME", help="Name of the sweep; replaces that of the file.")
@click.option("--plan", "plan_only", is_flag=True, help="Check and show what would run, without running it.")
@click.option("--status", is_flag=True, help="Show the table of a sweep that runs or has ended, with --open.")
@click.option("--json", "as_json", is_flag=True, help="Print the facts of the sweep as JSON instead of text.")
def sweep_command(
    pipeline: str | None,
    file: Path | None,
    name: str,
    root: Path,
    max_parallel: int | None,
    budget: int | None,
    new_name: str | None,
    plan_only: bool,
    status: bool,
    as_json: bool,
    **cluster: Any,
) -> None:
    """Train many trials on this machine, or with --endpoint on Kubeflow Pipelines, and register the best one.

    With the same file, or with --open, a sweep that was stopped or killed goes on: finished trials are not run again.
    """
    from pipelines.sweeping import cluster_command

    if bool(file) == bool(name):
        raise UserError(
            Problem("CLI-E0103", "finetune sweep", "-f and --open" if file else "neither -f nor --open", "one of them",
                    "write finetune sweep -f sweep.yaml")
        )  # fmt: skip
    given = {"max_parallel": max_parallel, "budget": budget, "name": new_name}
    _refuse_unused(given if name else {"status": status or None}, name)
    if cluster_command.is_meant(cluster):
        cluster_command.sweep(file, pipeline or "", given, name, plan_only, status, as_json, cluster)
    elif status:
        _show(name, root, as_json)
    else:
        _run_here(file, pipeline or "", given, name, root, plan_only, as_json)


def _show(name: str, root: Path, as_json: bool) -> None:
    """Print the table of a sweep on this machine, or its facts."""
    from pipelines.sweeping.handle import Sweep

    shown = Sweep.open(name, root)
    click.echo(_as_json({**shown.facts, "status": shown.state}) if as_json else repr(shown))


def _run_here(
    file: Path | None, pipeline: str, given: dict[str, Any], name: str, root: Path, plan_only: bool, as_json: bool
) -> None:
    """Plan the sweep of a file, or one that was begun, and run it on this machine; exit with its error if it fails."""
    from pipelines.outputs import refuse_in_uri, refuse_unwritable
    from pipelines.sweeping.checked import all_told, plan_as_text, planned
    from pipelines.sweeping.folder import existing
    from pipelines.sweeping.handle import begin
    from pipelines.sweeping.run import drive
    from pipelines.sweeping.table import as_text
    from pipelines.sweeping.told import no_facts
    from steps.running import leave

    refuse_unwritable("--root", root)
    refuse_in_uri("--root", root)
    if file:
        from pipelines.sweeping.file import read_sweep

        with all_told(root):
            described = read_sweep(file, pipeline, **given)
    else:
        root = root.absolute()
        described = existing(root, name).described
        os.chdir(existing(root, name).working_folder)
    plan = planned(described, root)
    if not as_json:
        click.echo(plan_as_text(described, plan))
    if plan_only:
        if as_json:
            click.echo(_as_json(plan))
        return
    folder = begin(described, root) if file else existing(root, name)
    outcome = drive(folder, (lambda line: None) if as_json else click.echo)
    facts = folder.facts or no_facts()
    told = _as_json(_result(facts, outcome, folder.path)) if as_json else _screen(as_text(facts), folder.path)
    with wholly() if as_json else contextlib.nullcontext():
        click.echo(told)
    if error := outcome["error"]:
        leave(error, quiet=as_json)


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)


def _refuse_unused(given: dict[str, Any], name: str) -> None:
    """Refuse options that are used only with -f, beside --open, and --status without a sweep that was begun."""
    unused = [f"--{option.replace('_', '-')}" for option, value in given.items() if value is not None]
    if unused:
        beside, instead = ("--open", "-f") if name else ("-f", "--open")
        fix = f"start it with -f and {unused[0]}: it goes on" if name else "write finetune sweep --open NAME --status"
        raise UserError(Problem("CLI-E0105", "finetune sweep", f"{', '.join(unused)} with {beside}", instead, fix))


def _result(facts: dict[str, Any], outcome: dict[str, Any], folder: Path) -> dict[str, Any]:
    from pipelines.sweeping.folder import REPORT

    return {**facts, "status": outcome["state"], "error": outcome["error"], "folder": str(folder),
            "report": str(folder / REPORT)}  # fmt: skip


def _screen(table: str, folder: Path) -> str:
    from pipelines.sweeping.folder import REPORT

    report = folder / REPORT
    return "\n".join(["", table, "", *([f"report  {report}"] if report.is_file() else []), f"sweep   {folder}"])


sweep_command.params += cluster_options()
