"""upload, submit and schedule: the client of Kubeflow Pipelines (`pipelines/client/`) for notebooks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.client.display import Shown
from pipelines.interface.failed import RunFailed, python_words
from pipelines.interface.given import Parameters, given
from pipelines.live import shown_lines
from steps.errors import Problem, UserError

if TYPE_CHECKING:
    from pipelines.client.connection import Connection, Server
    from pipelines.client.following import Run
    from pipelines.client.scheduling import Schedule
    from pipelines.client.submitting import Started
    from pipelines.client.uploading import UploadedList
    from pipelines.profile import Profile

    Place = Server | Connection | None
    ProfileOrFile = Profile | str | os.PathLike[str] | None


class Submitted(Shown):
    """A run on Kubeflow Pipelines."""

    def __init__(self, started: Started):
        self.run: Run = started.run
        self._server = started.server
        self._labels = started.labels

    @property
    def id(self) -> str:
        """Its id in KFP."""
        return self.run.id

    @property
    def name(self) -> str:
        """Its name."""
        return self.run.name

    @property
    def url(self) -> str:
        """The address of its page."""
        return self.run.address

    @property
    def command(self) -> str:
        """The command of kfp that starts the same run."""
        return self.run.command

    @property
    def state(self) -> str:
        """Its state now, such as RUNNING or SUCCEEDED: asks KFP. Raises Outage if it does not answer."""
        self._look()
        return self.run.state

    @property
    def gate(self) -> str:
        """ "passed" or "refused", as far as it was seen by `state` or `wait`; empty while it is not known."""
        return self.run.gate

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed, once `wait` has seen it."""
        return self.run.error

    @python_words()
    def wait(self, timeout: float = 0, show: bool = True) -> Submitted:
        """Tell each change of its tasks (`show`) until it ends, and return it.

        Raises RunFailed if it fails, and Outage if KFP does not answer, or if `timeout` seconds (0: any time) are over;
        the run goes on then.
        """
        from pipelines.client.following import follow

        follow(self._server, self.run, shown_lines(show), timeout, self._labels)
        if self.run.error:
            raise RunFailed(self.run.error, self)
        return self

    def _look(self) -> None:
        from pipelines.client.connection import quiet
        from pipelines.client.following import ENDED, gate_of

        if self.run.state in ENDED:
            return
        with quiet():
            made = self._server.client.get_run(self.run.id)
        self.run.state, self.run.gate = str(made.state or "PENDING"), gate_of(made)

    def rows(self) -> list[tuple[str, Any]]:
        """Names and values, as they were last seen."""
        return [("run", self.name), ("id", self.id), *self.run.rows()[1:]]


@python_words()
def upload(
    *pipelines: str,
    endpoint: str = "",
    namespace: str = "",
    server: Place = None,
    profile: ProfileOrFile = None,
    image_prefix: str = "",
    images: Mapping[str, str] | None = None,
) -> UploadedList:
    """Upload pipelines, or compiled YAML files, and return their versions; without a name, all pipelines.

    Raises UserError or Outage. `submit` and `schedule` upload what they need themselves.
    """
    from pipelines.client.uploading import upload

    return upload(
        *pipelines,
        profile=_profile(profile),
        image_prefix=image_prefix,
        images=dict(images or {}) or None,
        server=_there(endpoint, namespace, server),
    )


@python_words()
def submit(
    pipeline: str,
    parameters: Parameters = None,
    *,
    endpoint: str = "",
    namespace: str = "",
    server: Place = None,
    profile: ProfileOrFile = None,
    experiment: str = "",
    run_name: str = "",
    service_account: str = "",
    image_prefix: str = "",
    images: Mapping[str, str] | None = None,
    plan: bool = True,
    show: bool = True,
    **more: Any,
) -> Submitted:
    """Check and plan a run here, start it on Kubeflow Pipelines and return it; `wait()` follows it to its end.

    `parameters` and `more` are as for `run`. `endpoint` is the address of KFP (KF_PIPELINES_ENDPOINT); for a login
    beyond KF_PIPELINES_TOKEN, give `server` a `pipelines.client.Connection`. `profile` is the file of a cluster
    profile. With `plan=False` nothing is planned here. Raises UserError, SecurityRefusal or Outage before a run exists.
    """
    from pipelines.client.submitting import start

    name, values = given(pipeline, parameters, more)
    return Submitted(
        start(
            name, values, experiment=experiment, run_name=run_name, profile=_profile(profile),
            image_prefix=image_prefix, images=dict(images or {}) or None, service_account=service_account, plan=plan,
            server=_there(endpoint, namespace, server), tell=shown_lines(show),
        )
    )  # fmt: skip


@python_words()
def schedule(
    pipeline: str,
    parameters: Parameters = None,
    *,
    cron: str = "",
    every: str = "",
    name: str = "",
    endpoint: str = "",
    namespace: str = "",
    server: Place = None,
    profile: ProfileOrFile = None,
    experiment: str = "",
    service_account: str = "",
    image_prefix: str = "",
    images: Mapping[str, str] | None = None,
    plan: bool = True,
    show: bool = True,
    **more: Any,
) -> Schedule:
    """Run a pipeline at fixed times: `cron` such as "0 30 6 * * 1-5", or `every` such as "6h". Returns the schedule.

    Everything else is as for `submit`. `pipelines.client` pauses, resumes, deletes and lists schedules.
    """
    from pipelines.client.scheduling import schedule

    chosen, values = given(pipeline, parameters, more)
    return schedule(
        chosen, values, cron=cron, every=every, name=name, experiment=experiment, profile=_profile(profile),
        image_prefix=image_prefix, images=dict(images or {}) or None, service_account=service_account, plan=plan,
        server=_there(endpoint, namespace, server), tell=shown_lines(show),
    )  # fmt: skip


def _there(endpoint: str, namespace: str, server: Place) -> Place:
    """Return where KFP is: a server, or a connection with the address. Raises UserError if both are given."""
    from pipelines.client.connection import Connection

    if server is None:
        return Connection(endpoint=endpoint, namespace=namespace)
    if endpoint or namespace:
        raise UserError(Problem("CLIENT-E0119", "server", f"also endpoint {endpoint!r} and namespace {namespace!r}",
                                "server alone, or endpoint and namespace", "leave server out"))  # fmt: skip
    return server


def _profile(profile: ProfileOrFile) -> Profile | None:
    from pipelines.profile_file import read_profile

    if isinstance(profile, str | os.PathLike):
        return read_profile(Path(profile)) if os.fspath(profile) else None
    return profile
