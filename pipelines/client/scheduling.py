"""Runs at fixed times: enabled, one at a time, and none is caught up with after a pause."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.client.connection import Connection, Server, connected, quiet
from pipelines.client.display import Shown, ShownList
from pipelines.client.packages import package_of
from pipelines.client.planning import plan_here
from pipelines.client.submitting import account_of, checked, experiment_id, experiment_of, refuse_secrets
from pipelines.client.uploading import upload_package
from steps.errors import Problem, UserError, nearest, shown

if TYPE_CHECKING:
    from pipelines.profile import Profile

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
EVERY = re.compile(r"(\d+)\s*([smhdw]?)")
SHORTEST = 60  # seconds
WORDS = {"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"}
CRON_FIELD = re.compile(r"[\d*,/?a-zA-Z#LW-]+")
PAGE = 100


@dataclass(frozen=True, repr=False)
class Schedule(Shown):
    """A recurring run in KFP."""

    id: str
    name: str
    state: str
    """ENABLED or DISABLED."""
    when: str
    """Cron expression or interval."""
    address: str

    @property
    def url(self) -> str:
        """The address of its page in the user interface."""
        return self.address

    def rows(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return [("schedule", self.name), ("state", self.state), ("when", self.when), ("address", self.address)]


class Schedules(ShownList):
    """Recurring runs."""

    heads = ("schedule", "state", "when", "address")


def schedule(
    pipeline: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    cron: str = "",
    every: str = "",
    name: str = "",
    experiment: str = "",
    profile: Profile | None = None,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    service_account: str = "",
    plan: bool = True,
    server: Server | Connection | None = None,
    tell: Callable[[str], None] = print,
) -> Schedule:
    """Run a pipeline at fixed times: `cron` has KFP's six fields (or cron's five), `every` is such as "6h".

    The schedule is enabled, starts one run at a time, and leaves out times that passed while it was paused or while a
    run lasted. Raises UserError, also for a name that is taken, SecurityRefusal or Outage.
    """
    expression, seconds = times_of(cron, every)
    refuse_secrets({"--name": name, "--experiment": experiment, "--service-account": service_account})
    package = package_of(pipeline, profile, image_prefix, images)
    values = checked(package, parameters or {}, profile, plan, tell)
    there = connected(server)
    if plan:
        plan_here(package, values, profile, tell)
    name = name or f"{package.name} {cron or 'every ' + every}"
    if any(one.name == name for one in schedules(there)):
        raise UserError(
            Problem("CLIENT-E0110", "--name", shown(name), "a name that no schedule has",
                    f"choose another, or delete it: finetune schedule delete {shown(name)}")
        )  # fmt: skip
    done = upload_package(there, package)
    in_experiment = experiment_id(there, experiment_of(experiment))
    with quiet():
        made = there.client.create_recurring_run(
            experiment_id=in_experiment,
            job_name=name,
            cron_expression=expression or None,
            interval_second=seconds or None,
            max_concurrency=1,
            no_catchup=True,
            enabled=True,
            params=values.inputs,
            pipeline_id=done.pipeline_id,
            version_id=done.version_id,
            service_account=account_of(service_account, profile) or None,
        )
    return _read(there, made)


def schedules(server: Server | Connection | None = None) -> Schedules:
    """Return every schedule of the namespace."""
    there = connected(server)
    found, token = Schedules(), ""
    while True:
        with quiet():
            answer = there.client.list_recurring_runs(
                page_token=token, page_size=PAGE, sort_by="created_at desc", namespace=there.namespace
            )
        found += [_read(there, made) for made in answer.recurring_runs or ()]
        token = answer.next_page_token or ""
        if not token:
            return found


def pause(name: str, server: Server | Connection | None = None) -> Schedule:
    """Stop a schedule until it is resumed; a name or an id. Runs that have begun go on."""
    return _changed(name, "disable_recurring_run", "DISABLED", server)


def resume(name: str, server: Server | Connection | None = None) -> Schedule:
    """Let a schedule that was paused go on."""
    return _changed(name, "enable_recurring_run", "ENABLED", server)


def delete(name: str, server: Server | Connection | None = None) -> Schedule:
    """Delete a schedule. Runs that have begun go on."""
    return _changed(name, "delete_recurring_run", "deleted", server)


def times_of(cron: str, every: str) -> tuple[str, int]:
    """Return KFP's cron expression, or the seconds between two runs. Raises UserError for a wrong one, or not one."""
    if bool(cron) == bool(every):
        found = "both" if cron else "neither"
        raise UserError(Problem("CLIENT-E0111", "--cron, --every", found, "one of them",
                                "write --cron '0 0 6 * * *' or --every 6h"))  # fmt: skip
    return (_cron(cron), 0) if cron else ("", _seconds(every))


def _cron(text: str) -> str:
    """Return an expression of six fields, the first of which are the seconds."""
    fields = text.split()
    if len(fields) == 1 and (fields[0] in WORDS or re.fullmatch(r"@every\d+\w+", fields[0])):
        return fields[0]
    if len(fields) == 5:
        fields = ["0", *fields]
    problems = list(_wrong_fields(fields))
    if len(fields) != 6 or problems:
        found = shown(text) if len(fields) != 6 else f"{shown(text)}: {problems[0]}"
        raise UserError(Problem("CLIENT-E0112", "--cron", found, "seconds, minutes, hours, day, month and weekday",
                                "write '0 30 6 * * 1-5' for half past six on weekdays"))  # fmt: skip
    return " ".join(fields)


def _wrong_fields(fields: list[str]) -> Iterator[str]:
    limits = (("seconds", 0, 59), ("minutes", 0, 59), ("hours", 0, 23), ("day", 1, 31), ("month", 1, 12),
              ("weekday", 0, 6))  # fmt: skip
    for field, (name, least, most) in zip(fields, limits, strict=False):
        numbers = [int(number) for part in field.split(",") for number in re.findall(r"\d+", part.split("/")[0])]
        if not CRON_FIELD.fullmatch(field) or any(not least <= number <= most for number in numbers):
            yield f"{name} {field!r} is not within {least} and {most}"


def _seconds(text: str) -> int:
    found = EVERY.fullmatch(text.strip())
    seconds = int(found[1]) * UNITS[found[2] or "s"] if found else 0
    if seconds < SHORTEST:
        raise UserError(
            Problem("CLIENT-E0113", "--every", shown(text), "at least a minute, such as 30m, 6h or 1d", "correct it")
        )
    return seconds


def _changed(name: str, method: str, state: str, server: Server | Connection | None) -> Schedule:
    there = connected(server)
    one = _found(there, name)
    with quiet():
        getattr(there.client, method)(recurring_run_id=one.id)
    return Schedule(one.id, one.name, state, one.when, one.address)


def _found(server: Server, name: str) -> Schedule:
    every = schedules(server)
    found = [one for one in every if name in (one.id, one.name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(one.id for one in found)
        raise UserError(Problem("CLIENT-E0114", shown(name), f"{len(found)} schedules of this name", "one",
                                f"name it by its id: {ids}"))  # fmt: skip
    names = ", ".join(one.name for one in every[:10]) or "none"
    fix = nearest(name, [one.name for one in every]) or "see `finetune schedule list`"
    raise UserError(Problem("CLIENT-E0115", "schedule", shown(name), f"one of {names}", fix))


def _read(server: Server, made: Any) -> Schedule:
    when = ""
    if made.trigger and made.trigger.cron_schedule and made.trigger.cron_schedule.cron:
        when = made.trigger.cron_schedule.cron
    elif made.trigger and made.trigger.periodic_schedule:
        when = f"every {_interval(int(made.trigger.periodic_schedule.interval_second))}"
    state = str(made.status or ("ENABLED" if made.mode == "ENABLE" else "DISABLED"))
    address = server.page(f"recurringrun/details/{made.recurring_run_id}")
    return Schedule(made.recurring_run_id, made.display_name, state, when, address)


def _interval(seconds: int) -> str:
    for unit, length in reversed(UNITS.items()):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
