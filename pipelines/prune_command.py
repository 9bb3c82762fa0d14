"""The command `finetune prune`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from steps.errors import Problem, UserError, shown

SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([hdw]?)")
USUAL = 10


@click.command()
@click.option(
    "--root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder with the runs."
)
@click.option(
    "--keep", type=click.IntRange(min=0), metavar="N", help=f"Keep the newest N runs and N sweeps (default: {USUAL})."
)
@click.option("--older-than", default="", metavar="AGE", help="Remove only runs older than this: 30d, 12h, 2w.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def prune(root: Path, keep: int | None, older_than: str, dry_run: bool, as_json: bool) -> None:
    """Remove old runs of this machine, except what registered versions and other runs need.

    Of sweeps that have ended it removes the weights of all trials but the best. Also deletes what finished trainings
    left below checkpoints/, and closes MLflow runs of killed trainings.
    """
    from pipelines.pruning import prune as remove

    age = seconds(older_than)
    done = remove(root, USUAL if keep is None and not age else keep or 0, age, dry_run)
    if as_json:
        click.echo(json.dumps({**vars(done), "freed": done.freed, "dry_run": dry_run}, indent=1))
        return
    verb = "would remove" if dry_run else "removed"
    for name, size in done.removed.items():
        click.echo(f"{verb} {name}  {size:,} bytes")
    for name, why in done.kept.items():
        click.echo(f"kept {name}: {why}")
    for told in done.missing:
        click.echo(f"WARNING {told}")
    for run in done.closed:
        click.echo(f"closed the MLflow run {run} of a killed training")
    click.echo(f"{'would free' if dry_run else 'freed'} {done.freed:,} bytes ({done.freed / 1e6:,.1f} MB)")


def seconds(age: str) -> float:
    """Return an age such as 30d, 12h or 2w in seconds; a number alone is in days. Raises UserError."""
    if not age.strip():
        return 0.0
    read = AGE.fullmatch(age.strip().lower())
    if not read:
        raise UserError(
            Problem(
                "PRUNE-E0202", "--older-than", shown(age), "a number of days, hours or weeks", "write 30d, 12h or 2w"
            )
        )
    return float(read[1]) * SECONDS[read[2] or "d"]
