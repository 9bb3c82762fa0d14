"""The commands `finetune upload`, `submit`, `schedule` and `runs`."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import click

from pipelines import completion
from pipelines.flags import PipelineGroup, for_pipeline
from steps.errors import Problem, UserError

EXIT_GATE = 7  # as of `finetune run --gate-exit`


def connection_options() -> list[click.Parameter]:
    """Return the options that say where Kubeflow Pipelines is."""
    return [
        click.Option(["--endpoint"], metavar="URL", help="Address of Kubeflow Pipelines; KF_PIPELINES_ENDPOINT."),
        click.Option(["--namespace"], metavar="NAME", help="Namespace of the runs, where there are several users."),
        click.Option(
            ["--token"],
            metavar="TOKEN",
            help="Bearer token; better in KF_PIPELINES_TOKEN, or a file named by KF_PIPELINES_SA_TOKEN_PATH.",
        ),
        click.Option(["--ca-cert"], metavar="FILE", help="Certificates of the authority that signed the server's."),
        click.Option(["--verify-tls/--no-verify-tls"], default=True, help="Check the server's certificate."),
        click.Option(["--kube-context"], metavar="NAME", help="Context of kubeconfig, to ask for the pods of a run."),
    ]


def compile_options() -> list[click.Parameter]:
    """Return the options that say for which cluster a pipeline is compiled."""
    return [
        click.Option(
            ["--profile"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The cluster: see `finetune profile`.",
        ),
        click.Option(["--image-prefix"], default="", metavar="REGISTRY/PROJECT", help="Prefix of every image."),
        click.Option(["--image", "images"], multiple=True, metavar="IMAGE=REFERENCE",
                     help="Replace one image; repeatable."),
    ]  # fmt: skip


def run_options() -> list[click.Parameter]:
    """Return the options that a single run and a schedule share."""
    return [
        click.Option(["--experiment"], default="", metavar="NAME", help="Experiment of KFP; kfp's default: Default."),
        click.Option(
            ["--service-account"], default="", metavar="NAME", help="Service account of the pods; the profile's."
        ),
        click.Option(["--plan/--no-plan"], default=True, help="Plan here first, where data and model can be read."),
    ]


def cluster_options() -> list[click.Parameter]:
    """Return the options of a run, with those of its cluster, for a command that has a plan of its own."""
    return [
        *run_options()[:-1],
        click.Option(["--no-plan"], is_flag=True, help="With --endpoint: plan nothing on this machine."),
        click.Option(["--wait/--no-wait"], default=True, help="With --endpoint: follow the sweep to its end."),
        *compile_options(),
        *connection_options(),
    ]


def read_connection(options: dict[str, Any]) -> Any:
    """Take the options of a connection out of `options`."""
    from pipelines.client.connection import Connection

    taken = {name: options.pop(name) or "" for name in ("endpoint", "namespace", "token", "ca_cert", "kube_context")}
    return Connection(**taken, verify=options.pop("verify_tls"))


def read_compiling(options: dict[str, Any]) -> dict[str, Any]:
    """Take the options of compiling out of `options` and read them."""
    from pipelines.compile import replaced_images
    from pipelines.profile_file import read_profile

    profile = options.pop("profile")
    return {
        "profile": read_profile(profile) if profile else None,
        "image_prefix": options.pop("image_prefix"),
        "images": replaced_images(options.pop("images")),
    }


def _upload(names: tuple[str, ...], **options: Any) -> None:
    """Upload pipelines (default: all) or compiled YAML files, as new pipelines or as new versions."""
    from pipelines.client.uploading import upload

    connection = read_connection(options)
    upload(*names, server=connection, show=lambda done: click.echo(f"{done}\n"), **read_compiling(options), **options)


def _submit(name: str, given: dict[str, Any], gate_exit: bool, wait: bool, as_json: bool, **options: Any) -> None:
    """Start a run on Kubeflow Pipelines: check and plan it here, upload the pipeline, send every parameter."""
    from pipelines.catalog import published_as
    from pipelines.client.submitting import submit
    from steps.running import leave

    if gate_exit and not published_as(name).trains:
        raise UserError(
            Problem(
                "CLIENT-E0117", "--gate-exit", f"{name}, which has no gate", "a pipeline that trains", "leave it out"
            )
        )
    parameters, connection = for_pipeline(name, given), read_connection(options)
    followed = wait or gate_exit
    run = submit(
        name, parameters, wait=followed, server=connection, tell=lambda line: click.echo(line, err=as_json),
        **read_compiling(options), **options,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(run), indent=1, ensure_ascii=False))
    if followed:
        click.echo(f"{run.name} {run.state}" + (f", gate: {run.gate}" if run.gate else ""), err=as_json)
    if run.error:
        leave(run.error, quiet=as_json)
    if gate_exit and run.gate != "passed":
        sys.exit(EXIT_GATE)


def _schedule(name: str, given: dict[str, Any], **options: Any) -> None:
    """Run a pipeline at fixed times (--cron, --every), one run at a time; or list, pause, resume, delete schedules."""
    from pipelines.client.scheduling import schedule

    parameters, connection = for_pipeline(name, given), read_connection(options)
    title = options.pop("title")
    compiling = read_compiling(options)
    click.echo(schedule(name, parameters, name=title, server=connection, tell=click.echo, **compiling, **options))


def _list(**options: Any) -> None:
    """List the schedules."""
    from pipelines.client.scheduling import schedules

    click.echo(schedules(read_connection(options)))


def _change(action: str, meaning: str) -> click.Command:
    def change(schedule: str, **options: Any) -> None:
        from pipelines.client import scheduling

        click.echo(getattr(scheduling, action)(schedule, read_connection(options)))

    named = click.Argument(["schedule"], metavar="NAME|ID")
    return click.Command(action, params=[named, *connection_options()], callback=change, help=meaning)


def _runs(experiment: str, limit: int, as_json: bool, **options: Any) -> None:
    """List the recent runs, with their state and what the gate said."""
    from pipelines.client.recent import recent_runs

    found = recent_runs(experiment, limit, read_connection(options))
    told = [{"id": run.id, "created": run.created, "state": run.state, "gate": run.gate, "name": run.name,
             "address": run.address} for run in found]  # fmt: skip
    click.echo(json.dumps(told, indent=1, ensure_ascii=False) if as_json else found)


class ScheduleGroup(PipelineGroup):
    """One command per pipeline, and those for the schedules that exist."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.own, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.own.get(cmd_name) or super().get_command(ctx, cmd_name)

    @property
    def own(self) -> dict[str, click.Command]:
        """The commands for schedules that exist."""
        return {
            "list": click.Command("list", params=connection_options(), callback=_list, help=_list.__doc__),
            "pause": _change("pause", "Stop a schedule until it is resumed; runs that have begun go on."),
            "resume": _change("resume", "Let a schedule that was paused go on."),
            "delete": _change("delete", "Delete a schedule; runs that have begun go on."),
        }


def _json(what: str) -> click.Option:
    return click.Option(["--json", "as_json"], is_flag=True, help=f"Print {what} as JSON.")


SUBMIT_OPTIONS: list[click.Parameter] = [
    click.Option(["--wait"], is_flag=True, help="Follow the run to its end; exits with the code of a step that fails."),
    click.Option(["--timeout"], type=click.FloatRange(min=0), default=0, metavar="SECONDS",
                 help="With --wait: stop following after this time; the run goes on."),
    click.Option(["--gate-exit"], is_flag=True,
                 help=f"Wait, and exit with {EXIT_GATE} if the gate refuses the tuned model."),
    click.Option(["--run-name"], default="", metavar="NAME", help="Name of the run."),
    _json("the run"),
]  # fmt: skip
SCHEDULE_OPTIONS: list[click.Parameter] = [
    click.Option(["--cron"], default="", metavar="FIELDS", help="Seconds, minutes, hours, day, month, weekday."),
    click.Option(["--every"], default="", metavar="TIME", help="Interval such as 30m, 6h or 1d."),
    click.Option(["--name", "title"], default="", metavar="NAME", help="Name of the schedule."),
]  # fmt: skip


def commands() -> list[click.Command]:
    """Return the four commands."""
    names = click.Argument(["names"], metavar="[PIPELINE|FILE]...", nargs=-1, shell_complete=completion.pipelines)
    choices = click.Option(
        ["--choices/--no-choices"], default=True, help="Drop-downs in the UI; KFP before 2.16 rejects them."
    )
    shared = [*run_options(), *compile_options(), *connection_options()]
    return [
        click.Command("upload", params=[names, choices, *compile_options(), *connection_options()], callback=_upload,
                      help=_upload.__doc__),
        PipelineGroup(_submit, [*SUBMIT_OPTIONS, *shared], sweeps=True, name="submit", help=_submit.__doc__),
        ScheduleGroup(_schedule, [*SCHEDULE_OPTIONS, *shared], sweeps=True, name="schedule", help=_schedule.__doc__),
        click.Command("runs", callback=_runs, help=_runs.__doc__, params=[
            click.Option(["--experiment"], default="", metavar="NAME", help="Only runs of this experiment."),
            click.Option(["--limit"], type=click.IntRange(min=1), default=10, show_default=True, help="How many."),
            _json("the runs"), *connection_options()]),
    ]  # fmt: skip
