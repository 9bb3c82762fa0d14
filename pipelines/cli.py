"""The `finetune` command. Imports kfp only to run or compile a pipeline, and never imports torch."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from pipelines import completion
from pipelines.client.commands import commands as client_commands
from pipelines.flags import PipelineGroup, for_pipeline, parameters_in, read_pairs
from pipelines.prune_command import prune
from pipelines.reap_command import reap
from pipelines.sweeping.command import sweep_command
from pipelines.verify_command import verify
from steps.errors import Problem, UserError, nearest
from steps.outlets import open_outlets, wholly
from steps.redaction import mask_output
from steps.stopping import Stopped, stop_when_asked

EXIT_GATE = 7  # with --gate-exit; the codes of errors are in steps/errors.py
JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of text.")


def main() -> None:
    """Run the command line; exits with the exit code of the error class."""
    words = sys.argv[1:]
    if words[:1] in (["run"], ["sweep"], ["check-data"]):
        open_outlets()
    else:
        mask_output()  # and ends when nobody reads, as `finetune list | head` does
    as_json = "--json" in words and words[0] in (
        "plan",
        "run",
        "submit",
        "sweep",
        "verify",
    )  # stdout then holds one JSON object, also on an error
    step = "plan" if words[:1] == ["plan"] else "finetune"
    if words[:1] in (["plan"], ["run"], ["sweep"]):
        _watch_memory(step)
    try:
        stop_when_asked()
        sys.exit(cli.main(prog_name="finetune", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(_misused(error), step, as_json)
    except (click.Abort, KeyboardInterrupt) as error:
        asked = error.__cause__ if isinstance(error, click.Abort) else error
        _fail(asked if isinstance(asked, Stopped) else Stopped(signal.SIGINT), step, as_json)
    except BrokenPipeError:  # `finetune list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        _fail(error, step, as_json)


def _watch_memory(step: str) -> None:
    from steps.running import leave, watch_memory

    watch_memory(step, leave)


def _fail(error: BaseException, step: str, as_json: bool) -> NoReturn:
    from steps.running import failure, leave

    open_outlets()  # what cannot be printed does not change the code
    outcome = failure(error, step).as_json(step)
    if as_json:
        click.echo(json.dumps({"error": outcome}, indent=1, ensure_ascii=False))
    leave(outcome, quiet=as_json)


def _misused(error: click.ClickException) -> UserError:
    """Turn click's error about the command line into one of ours."""
    context = getattr(error, "ctx", None)
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), sys.argv[1:]))
    command = context.command_path if context else " ".join(["finetune", *names])
    near = (getattr(error, "possibilities", None) or [""])[0]
    said = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):
        said = f"the option {error.option_name}"
    elif name := getattr(error, "command_name", ""):
        said, near = f"the command {name}", nearest(name, cli.commands).removeprefix("did you mean ").rstrip("?")
    fix = f"did you mean {near}?" if near else f"see `{command} --help`"
    return UserError(Problem("CLI-E0101", command, said.rstrip("."), "options and names of this command", fix))


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
@click.argument("name", metavar="PIPELINE", shell_complete=completion.pipelines)
@click.option("--json", "as_json", is_flag=True, help="Print the configuration schema (JSON Schema).")
def describe(name: str, as_json: bool) -> None:
    """Show every parameter of a pipeline, with its default and description."""
    from pipelines.reference import as_text, schema

    published = _published(name)
    click.echo(json.dumps(schema(published.parameters), indent=1) if as_json else as_text(published))


def _plan(name: str, given: dict[str, Any], as_json: bool, root: Path) -> None:
    """Check parameters, data and model, and show what would run, without running it."""
    import tempfile

    from pipelines.runs import plan

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with _quiet(as_json):
            plan(name, for_pipeline(name, given), root, folder)
        if as_json:
            click.echo((folder / "plan" / "plan.json").read_text("utf-8"))


def _run(name: str, given: dict[str, Any], root: Path, cache: bool, as_json: bool, gate_exit: bool) -> None:
    """Run the pipeline on this machine."""
    from pipelines.catalog import PIPELINES
    from pipelines.runs import run, screen
    from steps.running import leave

    if gate_exit and not PIPELINES[name].trains:
        raise UserError(
            Problem("CLI-E0102", "--gate-exit", f"{name}, which has no gate", "a pipeline that trains", "leave it out")
        )
    result = run(name, for_pipeline(name, given), root, cache, quiet=as_json)
    with wholly() if as_json else contextlib.nullcontext():
        click.echo(json.dumps(result, indent=1, ensure_ascii=False) if as_json else screen(result))
    if error := result["error"]:
        leave(error, quiet=as_json)
    if gate_exit and not result["gate"]["passed"]:
        sys.exit(EXIT_GATE)


ROOT = click.Option(
    ["--root"],
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder for runs, cache, checkpoints and the MLflow store.",
)
GATE_EXIT = click.Option(
    ["--gate-exit"], is_flag=True, help=f"Exit with {EXIT_GATE} if the gate refuses the tuned model, for scripts."
)
CACHE = click.Option(["--cache/--no-cache"], default=True, help="Reuse results of earlier runs with the same inputs.")

cli.add_command(PipelineGroup(_plan, [JSON, ROOT], name="plan", help=_plan.__doc__))
cli.add_command(prune)
cli.add_command(reap)
cli.add_command(verify)
cli.add_command(PipelineGroup(_run, [JSON, ROOT, CACHE, GATE_EXIT], name="run", help=_run.__doc__))
cli.add_command(sweep_command)
for command in client_commands():
    cli.add_command(command)


@cli.command("compile")
@click.argument("names", metavar="[PIPELINE]...", nargs=-1, shell_complete=completion.pipelines)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("compiled"), show_default=True)
@click.option("--choices/--no-choices", default=True, help="Drop-downs in the UI; KFP before 2.16 rejects them.")
@click.option("--image-prefix", default="", metavar="REGISTRY/PROJECT", help="Prefix of every image.")
@click.option("--image", "images", multiple=True, metavar="IMAGE=REFERENCE", help="Replace one image; repeatable.")
@click.option("--profile", type=click.Path(path_type=Path), metavar="FILE", help="The cluster: see `finetune profile`.")
@click.option("-f", "--config", type=click.Path(path_type=Path), metavar="FILE", help="Values to bake in, with --name.")
@click.option("--inputs", default="", metavar="A,B,…", help="The parameters that stay inputs, with --name.")
@click.option("--name", default="", help="Write one pipeline under this name, with the --inputs and the values of -f.")
@click.option("--sweep/--no-sweep", "sweep", default=None, help="Also write the sweep over each named pipeline.")
def compile_command(
    names: tuple[str, ...],
    output: Path,
    choices: bool,
    image_prefix: str,
    images: tuple[str, ...],
    profile: Path | None,
    config: Path | None,
    inputs: str,
    name: str,
    sweep: bool | None,
) -> None:
    """Write pipelines as YAML for a cluster (default: all), each in full and in a short form with few inputs."""
    from pipelines.catalog import PIPELINES, SWEPT
    from pipelines.compile import compile_pipelines, replaced_images
    from pipelines.outputs import refuse_unwritable
    from pipelines.profile_file import read_profile

    refuse_unwritable("--output", output)
    cluster = read_profile(profile) if profile else None
    chosen = [_published(given).name for given in names] or list(PIPELINES)
    form = _form(chosen, name, inputs, config) if name or inputs or config else None
    swept = set(chosen if sweep else () if sweep is False or names else SWEPT)
    for file in compile_pipelines(
        chosen, output, choices, image_prefix, replaced_images(images), cluster, form, short=True, sweeps=swept
    ):
        click.echo(file)


def _form(chosen: list[str], name: str, inputs: str, config: Path | None) -> Any:
    """Return the form that the options of compile describe, of the one pipeline that is named."""
    from pipelines.catalog import published_as
    from pipelines.form import form_of

    if len(chosen) != 1 or not name:
        found = f"{len(chosen)} pipelines" if name else "no --name"
        fix = "write finetune compile PIPELINE -f FILE --inputs A,B --name NAME"
        raise UserError(Problem("COMPILE-E0106", "--inputs, -f, --name", found, "one pipeline and a new name", fix))
    published = published_as(chosen[0])
    given = for_pipeline(published.name, parameters_in(config, published.parameters)) if config else {}
    return form_of(published, name, inputs.split(","), given)


@cli.command("profile")
def profile_command() -> None:
    """Print a cluster profile with every key, its default and its meaning, for `compile --profile`."""
    from pipelines.profile_file import as_yaml

    click.echo(as_yaml(), nl=False)


@cli.command("check-data")
@click.argument("task", shell_complete=completion.tasks)
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
    shell_complete=completion.pairs,
)
def check_data(task: str, train: str, validation: str, test: str, report: Path | None, param: tuple[str, ...]) -> None:
    """Check every row of data files, without a model."""
    from pipelines.outputs import refuse_unwritable
    from steps.running import run_step

    if report:
        refuse_unwritable("--json", report, folder=False)
        report.parent.mkdir(parents=True, exist_ok=True)
    options = read_pairs(param)
    run_step("check-data", task=task, train=train, validation=validation, test=test, options=options, findings=report)


@cli.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print a completion script: eval "$(finetune completion bash)"."""
    click.echo(completion.script_class(shell)(cli, {}, "finetune", "_FINETUNE_COMPLETE").source())


def _published(name: str) -> Any:
    from pipelines.catalog import published_as

    return published_as(name)


def _quiet(silent: bool) -> Any:
    """Redirect what a step prints to stderr, so that stdout holds only the JSON."""
    return contextlib.redirect_stdout(sys.stderr) if silent else contextlib.nullcontext()
