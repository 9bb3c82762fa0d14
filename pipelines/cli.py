"""The `finetune` command. Imports kfp only to run or compile a pipeline, and never imports torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pipelines.flags import PipelineGroup, for_pipeline, read_pairs
from pipelines.prune_command import prune
from steps.errors import Problem, StepError, UserError, nearest, shown

JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of text.")


def main() -> None:
    """Run the command line; exits with the exit code of the error class."""
    try:
        cli(prog_name="finetune")
    except StepError as error:
        click.echo(str(error), err=True)
        _leave(error.as_json("finetune"))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="finetune-pipelines")
def cli() -> None:
    """Fine-tune language models with Kubeflow Pipelines, on this machine or on a cluster."""


@cli.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def list_pipelines(as_json: bool) -> None:
    """List the available pipelines."""
    from pipelines.catalog import PIPELINES

    if as_json:
        click.echo(json.dumps({name: published.summary for name, published in PIPELINES.items()}, indent=1))
        return
    for name, published in PIPELINES.items():
        click.echo(f"{name:<18} {published.summary}")


@cli.command()
@click.argument("name", metavar="PIPELINE")
@click.option("--json", "as_json", is_flag=True, help="Print the configuration schema (JSON Schema).")
def describe(name: str, as_json: bool) -> None:
    """Show every parameter of a pipeline, with its default and description."""
    from pipelines.reference import as_text, schema

    published = _published(name)
    click.echo(json.dumps(schema(published.parameters), indent=1) if as_json else as_text(published))


def _plan(name: str, given: dict[str, Any], as_json: bool, root: Path) -> None:
    """Check parameters, data and model, and show what would run, without running it."""
    import os
    import tempfile

    from steps.running import LOCAL_ROOT, run_step

    os.environ[LOCAL_ROOT] = str(root.absolute())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with _quiet(as_json):
            arguments = for_pipeline(name, given)
            run_step("plan", pipeline=name, arguments=arguments, plan=folder / "plan", report=folder / "plan.html")
        if as_json:
            click.echo((folder / "plan" / "plan.json").read_text("utf-8"))


def _run(name: str, given: dict[str, Any], root: Path, cache: bool, as_json: bool) -> None:
    """Run the pipeline on this machine."""
    from pipelines.runs import run, screen

    result = run(name, for_pipeline(name, given), root, cache, quiet=as_json)
    click.echo(json.dumps(result, indent=1, ensure_ascii=False) if as_json else screen(result))
    if error := result["error"]:
        _leave(error)


ROOT = click.Option(
    ["--root"],
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder for runs, cache, checkpoints and the MLflow store.",
)
CACHE = click.Option(["--cache/--no-cache"], default=True, help="Reuse results of earlier runs with the same inputs.")

cli.add_command(PipelineGroup(_plan, [JSON, ROOT], name="plan", help=_plan.__doc__))
cli.add_command(prune)
cli.add_command(PipelineGroup(_run, [JSON, ROOT, CACHE], name="run", help=_run.__doc__))


@cli.command("compile")
@click.argument("names", metavar="[PIPELINE]...", nargs=-1)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("compiled"), show_default=True)
@click.option("--choices/--no-choices", default=True, help="Drop-downs in the UI; KFP before 2.16 rejects them.")
@click.option("--image-prefix", default="", metavar="REGISTRY/PROJECT", help="Prefix of every image.")
@click.option("--image", "images", multiple=True, metavar="IMAGE=REFERENCE", help="Replace one image; repeatable.")
@click.option("--profile", type=click.Path(path_type=Path), metavar="FILE", help="The cluster: see `finetune profile`.")
def compile_command(
    names: tuple[str, ...],
    output: Path,
    choices: bool,
    image_prefix: str,
    images: tuple[str, ...],
    profile: Path | None,
) -> None:
    """Write pipelines as YAML for a cluster (default: all)."""
    from pipelines.catalog import PIPELINES
    from pipelines.compile import compile_pipelines
    from pipelines.profile import read_profile

    cluster = read_profile(profile) if profile else None
    chosen = [_published(name).name for name in names] or list(PIPELINES)
    replaced = dict(pair.split("=", 1) for pair in images)
    for file in compile_pipelines(chosen, output, choices, image_prefix, replaced, cluster):
        click.echo(file)


@cli.command("profile")
def profile_command() -> None:
    """Print a cluster profile with every key, its default and its meaning, for `compile --profile`."""
    from pipelines.profile import as_yaml

    click.echo(as_yaml(), nl=False)


@cli.command("check-data")
@click.argument("task")
@click.option("--train", default="", metavar="FILES", help="Training rows: files, folders, patterns or URIs.")
@click.option("--validation", default="", metavar="FILES", help="Validation rows.")
@click.option("--test", default="", metavar="FILES", help="Test rows.")
@click.option("--json", "report", type=click.Path(path_type=Path), help="Also write the findings to this file.")
@click.option(
    "-p",
    "--param",
    multiple=True,
    metavar="NAME=VALUE",
    help="A data parameter (column, limit, source); repeatable.",
)
def check_data(task: str, train: str, validation: str, test: str, report: Path | None, param: tuple[str, ...]) -> None:
    """Check every row of data files, without a model."""
    from steps.running import run_step

    options = read_pairs(param)
    run_step("check-data", task=task, train=train, validation=validation, test=test, options=options, findings=report)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script: eval "$(finetune completion bash)"."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(cli, {}, "finetune", "_FINETUNE_COMPLETE").source())


def _published(name: str) -> Any:
    from pipelines.catalog import PIPELINES

    if published := PIPELINES.get(name.replace("-", "_")):
        return published
    fix = nearest(name, PIPELINES) or "see `finetune list`"
    raise UserError(Problem("PARAM-E0100", "pipeline", shown(name), f"one of {', '.join(PIPELINES)}", fix))


def _leave(outcome: dict[str, Any]) -> None:
    """Exit with an error's code; where stderr is not a terminal, its last line is the error as JSON."""
    if not sys.stderr.isatty():
        click.echo(json.dumps(outcome, ensure_ascii=False), err=True)
    sys.exit(outcome["code"])


def _quiet(silent: bool) -> Any:
    """Redirect what a step prints to stderr, so that stdout holds only the JSON."""
    import contextlib

    return contextlib.redirect_stdout(sys.stderr) if silent else contextlib.nullcontext()
