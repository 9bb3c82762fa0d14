"""Submit one run: check and plan here, upload the pipeline, start it with every input."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pipelines.client.connection import TOKEN, Connection, Server, connected, quiet
from pipelines.client.following import Run, follow, read_run
from pipelines.client.packages import Package, package_of
from pipelines.client.planning import plan_here, refuse_own_files
from pipelines.client.uploading import Uploaded, upload_package
from pipelines.client.values import Values, kfp_command, values_for
from steps.errors import Problem, SecurityRefusal
from steps.params.secrets import secret_in

if TYPE_CHECKING:
    from pipelines.profile import Profile

DEFAULT_EXPERIMENT = "KF_PIPELINES_DEFAULT_EXPERIMENT_NAME"  # kfp's own variables
OVERRIDE_EXPERIMENT = "KF_PIPELINES_OVERRIDE_EXPERIMENT_NAME"
EXPERIMENT = "Default"  # kfp's own


class Started(NamedTuple):
    """A run that was submitted, where, and the names of its tasks for people."""

    run: Run
    server: Server
    labels: dict[str, str]


def submit(
    pipeline: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    experiment: str = "",
    run_name: str = "",
    profile: Profile | None = None,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    service_account: str = "",
    plan: bool = True,
    wait: bool = False,
    timeout: float = 0,
    server: Server | Connection | None = None,
    tell: Callable[[str], None] = print,
) -> Run:
    """Start a run of a pipeline and return it; with `wait`, follow it until it ends or `timeout` seconds are over.

    Parameters are checked, and planned on this machine as far as it can read their sources, before anything is sent.
    Raises UserError, SecurityRefusal or Outage. A run that fails is returned with its `error`.
    """
    run, there, labels = start(
        pipeline, parameters, experiment=experiment, run_name=run_name, profile=profile, image_prefix=image_prefix,
        images=images, service_account=service_account, plan=plan, server=server, tell=tell,
    )  # fmt: skip
    return follow(there, run, tell, timeout, labels) if wait else run


def start(
    pipeline: str,
    parameters: Mapping[str, Any] | None = None,
    *,
    experiment: str = "",
    run_name: str = "",
    profile: Profile | None = None,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    service_account: str = "",
    plan: bool = True,
    server: Server | Connection | None = None,
    tell: Callable[[str], None] = print,
) -> Started:
    """Start a run as `submit` does, and return it with what `follow` needs."""
    refuse_secrets({"--run-name": run_name, "--experiment": experiment, "--service-account": service_account})
    package = package_of(pipeline, profile, image_prefix, images)
    values = checked(package, parameters or {}, profile, plan, tell)
    there = connected(server)
    if plan:
        plan_here(package, values, profile, tell)
    done = upload_package(there, package)
    name = run_name or f"{package.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    account = account_of(service_account, profile)
    run = _sent(there, package, values, done, experiment_of(experiment), name, account)
    tell(f"run {run.name}: {run.address}")
    tell(f"the same with kfp: {run.command}")
    if account:
        tell(f"kfp's command cannot set the service account {account}")
    return Started(run, there, labels_of(package))


def checked(
    package: Package, given: Mapping[str, Any], profile: Profile | None, plan: bool, tell: Callable[[str], None]
) -> Values:
    """Check the parameters of a run, return a value for every input; with `plan`, no path may be of this machine."""
    values = values_for(package, given)
    for line in values.warnings:
        tell(f"WARNING {line}")
    if plan:
        refuse_own_files(values.arguments, profile)
    return values


def experiment_of(name: str) -> str:
    """Return the name of the experiment, as kfp's client chooses it."""
    return os.environ.get(OVERRIDE_EXPERIMENT) or name or os.environ.get(DEFAULT_EXPERIMENT) or EXPERIMENT


def account_of(name: str, profile: Profile | None) -> str:
    """Return the service account of the pods: the one that is named, or the profile's; empty for KFP's own."""
    return name or (profile.service_account if profile else "")


def experiment_id(server: Server, name: str) -> str:
    """Return the id of an experiment, which is created if there is none of this name."""
    with quiet():
        return str(server.client.create_experiment(name, namespace=server.namespace).experiment_id)


def labels_of(package: Package) -> dict[str, str]:
    """Return the names of tasks for people, by the names that KFP's API has for them."""
    spec = package.documents[0]
    dags = [spec["root"]["dag"], *(made["dag"] for made in spec.get("components", {}).values() if "dag" in made)]
    return {key: task["taskInfo"]["name"] for dag in dags for key, task in dag["tasks"].items() if "taskInfo" in task}


def refuse_secrets(texts: Mapping[str, str]) -> None:
    """Refuse names that contain a secret: KFP stores and shows them."""
    found = {where: kind for where, text in texts.items() if (kind := secret_in(text))}
    if found:
        raise SecurityRefusal(
            Problem("CLIENT-E0303", where, kind, "no secret", "choose another text", why="KFP stores and shows it")
            for where, kind in found.items()
        )


def _sent(
    server: Server, package: Package, values: Values, done: Uploaded, experiment: str, name: str, account: str
) -> Run:
    in_experiment = experiment_id(server, experiment)
    with quiet():
        made = server.client.run_pipeline(
            experiment_id=in_experiment,
            job_name=name,
            params=values.inputs,
            pipeline_id=done.pipeline_id,
            version_id=done.version_id,
            service_account=account or None,
        )
    run = read_run(server, made, package.name)
    token = bool(server.connection.token or os.environ.get(TOKEN))
    words = ["-e", experiment, "-r", name, "-p", done.pipeline_id, "-v", done.version_id]
    run.command = kfp_command(server.endpoint, server.connection.namespace, token, words, values, package)
    return run
