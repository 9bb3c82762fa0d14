"""The command `finetune reap`."""

from __future__ import annotations

import dataclasses
import json

import click


@click.command()
@click.option("--namespace", default="", metavar="NAME", help="Namespace of the runs; that of the context.")
@click.option("--kube-context", default="", metavar="NAME", help="Context of kubeconfig.")
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and delete nothing.")
@click.option(
    "--keep-finished", type=click.FloatRange(min=0), default=24.0, show_default=True, metavar="HOURS",
    help="Keep jobs that ended by themselves for this time.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def reap(namespace: str, kube_context: str, dry_run: bool, keep_finished: float, as_json: bool) -> None:
    """Delete TrainJobs of trainings on several nodes whose run has ended."""
    from pipelines.reaping import reap as remove

    done = remove(namespace, kube_context, dry_run, keep_finished, tell=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(done), "dry_run": dry_run}, indent=1))
        return
    for name, why in done.removed.items():
        click.echo(f"{'would delete' if dry_run else 'deleted'} {name}: {why}")
    for name, why in done.kept.items():
        click.echo(f"kept {name}: {why}")
    if not done.removed and not done.kept:
        click.echo(f"no TrainJobs of ours in namespace {done.namespace}")
