"""A sweep on Kubeflow Pipelines: started, looked at, waited for, stopped, and opened again by its name.

Nothing of it is stored on this machine: its runs have its name and all of its trials, and MLflow has their results.
The trials of a grid, a list or a random search are known before, and are one run. Those of tpe and gp follow from
results: each batch of `max_parallel` trials is a run, sent by `wait`, and only the last run evaluates and registers.
"""

from __future__ import annotations

import contextlib
import html
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.client import following
from pipelines.client.connection import Connection, Server, connected, quiet
from pipelines.client.following import error_of
from pipelines.client.packages import Package, package_of
from pipelines.client.planning import plan_arguments, plan_here
from pipelines.client.submitting import account_of, checked, experiment_id, experiment_of, refuse_secrets
from pipelines.client.uploading import upload_package
from pipelines.sweeping.cluster_facts import facts_of
from pipelines.sweeping.described import Described
from pipelines.sweeping.handle import SweepFailed
from pipelines.sweeping.search import Search
from pipelines.sweeping.submission import (
    ALL_KNOWN,
    GOES_ON,
    described_in,
    documents_in,
    existing_runs,
    goes_on,
    has_ended,
    inputs_of,
    next_trials,
    parameters_of,
    refuse_prepared,
    runs_of,
    send,
    send_again,
    trials_only,
)
from pipelines.sweeping.told import Told
from steps.errors import Outage, Problem, StepError, UserError
from steps.params.pipelines import SWEEP

if TYPE_CHECKING:
    from pipelines.profile import Profile

    Place = Server | Connection | str | os.PathLike[str] | None

FRESH = 2.0  # seconds for which facts are not asked for again
STATES = {"SUCCEEDED": "finished", "CANCELED": "stopped"}


class ClusterSweep(Told):
    """A sweep on Kubeflow Pipelines; it has the same attributes as a `Sweep` on this machine."""

    def __init__(self, server: Server, name: str, plan: bool = True):
        """With `plan`, trials that follow from results are planned on this machine before they are sent."""
        self.name = name
        self.server = server
        self._plan = plan
        self._facts: dict[str, Any] | None = None
        self._asked = 0.0

    @classmethod
    def open(cls, name: str, server: Place = None) -> ClusterSweep:
        """Return a sweep that was started before, also from another machine.

        `server` is an address, a Connection or a Server; None: as kfp's environment says. Raises UserError for an
        unknown name, Outage if KFP does not answer.
        """
        there = connected(_place(server))
        existing_runs(there, name)
        return cls(there, name)

    @property
    def run(self) -> Any:
        """Its newest run, as KFP's API describes it. Raises Outage if KFP does not answer."""
        with quiet():
            return self.server.client.get_run(existing_runs(self.server, self.name)[0].run_id)

    @property
    def url(self) -> str:
        """The address of its newest run."""
        return self._address(self.run)

    @property
    def state(self) -> str:
        """running, finished, failed or stopped; between two batches of trials that nobody waits for it is stopped."""
        return _state(self.run)

    @property
    def facts(self) -> dict[str, Any]:
        """All that is known of it, in the form of sweep.json; `note` says why states and scores are unknown."""
        if self._facts is None or time.monotonic() - self._asked > FRESH:
            made = self.run
            self._facts = {**facts_of(made, self._address(made)), "state": _state(made)}
            self._asked = time.monotonic()
        return self._facts

    @property
    def report(self) -> str | None:
        """The address of the run whose output sweep_report has the plots and tables; None before it has finished."""
        made = self.run
        return self._address(made) if _state(made) == "finished" else None

    @property
    def error(self) -> dict[str, Any] | None:
        """Why it failed (`StepError.as_json`), as far as KFP and Kubernetes tell; None if it did not."""
        made = self.run
        return error_of(self.server, made) if _state(made) == "failed" else None

    def wait(self, show: bool = True, timeout: float | None = None) -> ClusterSweep:
        """Wait until it has ended, and send the next batch of trials when one has; Ctrl-C ends the waiting only.

        Raises SweepFailed if it failed, TimeoutError after `timeout` seconds, Outage if KFP, or MLflow between two
        batches, does not answer for five minutes; the sweep goes on then.
        """
        from pipelines.sweeping.progress import Progress

        begun = answered = time.monotonic()
        with Progress(self) if show else contextlib.nullcontext() as progress:
            while True:
                try:
                    made = self.run
                    if has_ended(made) and not (_state(made) == "stopped" and self._send_next(made)):
                        break
                    if progress:
                        progress.update()
                    answered = time.monotonic()
                except Outage:
                    if time.monotonic() - answered > following.PATIENCE:
                        raise
                if timeout is not None and time.monotonic() - begun > timeout:
                    raise TimeoutError(f"{self.name} still runs")
                time.sleep(following.LOOK_EVERY)
            self._facts = None
            if progress:
                progress.update(last=True)
        if error := self.error:
            raise SweepFailed(error)
        return self

    def stop(self, seconds: float = 60) -> ClusterSweep:
        """Terminate its run; a trial that had not ended trains again from its last checkpoint, or from its start."""
        made = self.run
        if not has_ended(made):
            with quiet():
                self.server.client.terminate_run(made.run_id)
        limit = time.monotonic() + seconds
        while not has_ended(self.run) and time.monotonic() < limit:
            time.sleep(min(1.0, following.LOOK_EVERY))
        self._facts = None
        return self

    def resume(self) -> ClusterSweep:
        """Send the run of a sweep that failed or was stopped again: trials that have ended come from KFP's cache."""
        made = self.run
        if _state(made) in ("failed", "stopped") and not self._send_next(made):
            send_again(self.server, made)
            self._facts = None
        return self

    def _send_next(self, made: Any) -> bool:
        """Send the run that follows a batch of trials, if this run is one that has ended well; return whether it is.

        Raises Outage or UserError if MLflow does not tell the results.
        """
        if not goes_on(made) or str(made.state) != "SUCCEEDED":
            return False
        inputs = inputs_of(made)
        described, search = described_in(inputs), dict(inputs["sweep_search"])
        done = facts_of(made, self._address(made), needs_mlflow=True)["trials"]
        _refuse_unknown(done)
        refused = list(search.get("refused", ()))
        good: list[dict[str, Any]] = []
        while not good:
            before = [*done, *({"parameters": one, "state": "failed"} for one in refused)]
            if not (asked := next_trials(described, before, described.max_parallel)):
                break
            good = [one for one in asked if not self._plan or _is_planned(inputs, one)]
            refused += [one for one in asked if one not in good]
        last = len(done) + len(refused) + len(good) >= Search(described).total
        search |= {GOES_ON: not last, **({"refused": refused} if refused else {})}
        following_run = {**inputs, "trials": [*inputs["trials"], *good], "sweep_search": search}
        version = tuple(search["version"])
        send(self.server, self.name, following_run, made.experiment_id, made.service_account or "",
             version if last else None, documents_in(made))  # fmt: skip
        self._facts = None
        return True

    def _address(self, made: Any) -> str:
        return self.server.page(f"runs/details/{made.run_id}")

    def _head(self) -> str:
        return f"sweep {self.name}: {self.facts['state']}  {self.facts['address']}"

    def __repr__(self) -> str:
        from pipelines.sweeping.table import as_text

        try:
            note = self.facts["note"]
            return "\n".join([as_text(self.facts, self._head()), *([note] if note else [])])
        except StepError as error:  # a notebook shows this without being asked
            return f"sweep {self.name}: {error}"

    def _repr_html_(self) -> str:
        from pipelines.sweeping.table import as_html

        try:
            note = f"<p>{html.escape(self.facts['note'])}</p>" if self.facts["note"] else ""
            return as_html(self.facts, html.escape(self._head())) + note
        except StepError as error:
            return f"<p>sweep {html.escape(self.name)}: {html.escape(str(error))}</p>"


def start_on_cluster(
    described: Described,
    server: Place = None,
    *,
    experiment: str = "",
    profile: Profile | str | os.PathLike[str] | None = None,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    service_account: str = "",
    plan: bool = True,
    tell: Callable[[str], None] = print,
) -> ClusterSweep:
    """Check and plan every trial that is known, start the sweep on Kubeflow Pipelines and return it at once.

    `server` is an address, a Connection or a Server; the rest is as for `pipelines.client.submit`. A sweep of the same
    name goes on if it is the same, or has more trials. Raises UserError, SecurityRefusal or Outage before anything is
    sent.
    """
    refuse_secrets({"--experiment": experiment, "--service-account": service_account})
    refuse_prepared(described)
    cluster = _profile(profile)
    name = described.name or f"{described.pipeline}-{time.strftime('%Y%m%d-%H%M%S')}"
    package = package_of(f"{described.pipeline}{SWEEP}", cluster, image_prefix, images)
    everything = described.search in ALL_KNOWN
    trials = next_trials(described, [], None if everything else described.max_parallel)
    last = len(trials) >= Search(described).total
    values = checked(package, parameters_of(described, name, trials, last), cluster, plan, tell)
    there = connected(_place(server))
    sweep = ClusterSweep(there, name, plan)
    before = runs_of(there, name)
    if before and _goes_on_with(sweep, inputs_of(before[0]), values.inputs, everything):
        return sweep.resume()
    if plan:
        _plan_all(described, name, package, values, cluster, tell)
    done = upload_package(there, package)
    inputs = dict(values.inputs)
    inputs["sweep_search"] = {**inputs["sweep_search"], "version": [done.pipeline_id, done.version_id]}
    version = (done.pipeline_id, done.version_id) if last else None
    made = send(there, name, inputs, experiment_id(there, experiment_of(experiment)),
                account_of(service_account, cluster), version, trials_only(package.documents))  # fmt: skip
    tell(f"sweep {name}: {there.page(f'runs/details/{made.run_id}')}")
    return sweep


def plan_for_cluster(
    described: Described,
    profile: Profile | None = None,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    tell: Callable[[str], None] = print,
) -> str:
    """Check and plan a sweep, and return a table of its known trials. Raises as `start_on_cluster`."""
    from pipelines.sweeping.table import as_text

    refuse_prepared(described)
    package = package_of(f"{described.pipeline}{SWEEP}", profile, image_prefix, images)
    trials = next_trials(described, [], None if described.search in ALL_KNOWN else described.max_parallel)
    name = described.name or described.pipeline
    values = checked(package, parameters_of(described, name, trials, True), profile, True, tell)
    _plan_all(described, name, package, values, profile, tell)
    lines = [{"number": place, "parameters": one, "state": "waiting", "best": False}
             for place, one in enumerate(trials)]  # fmt: skip
    facts = {"varied": described.varied, "metric": described.metric, "trials": lines,
             "higher_is_better": described.higher_is_better}  # fmt: skip
    return as_text(facts, f"sweep of {described.pipeline} by {described.search}: {Search(described).total} trials")


def _plan_all(
    described: Described, name: str, package: Package, values: Any, profile: Any, tell: Callable[[str], None]
) -> None:
    """Plan the trials that are known; of a sampler also those with the ends of every range."""
    if described.search in ALL_KNOWN:
        plan_here(package, values, profile, tell)
        return
    corners = parameters_of(described, name, Search(described).corners(), last=True)
    plan_here(package, checked(package, corners, profile, False, lambda line: None), profile, tell)


def _goes_on_with(sweep: ClusterSweep, before: dict[str, Any], wanted: dict[str, Any], everything: bool) -> bool:
    """Return whether a sweep of this name is the same; False if it has more trials now, which are sent.

    Raises UserError if it is another one, or still runs.
    """
    free = ("trials", "parallelism", "sweep_search")
    differ = [key for key, value in wanted.items() if key not in free and before.get(key) != value]
    searches = [{key: one.get("sweep_search", {}).get(key) for key in ("search", "space", "seed", "budget")}
                for one in (before, wanted)]  # fmt: skip
    old, new = before["trials"], wanted["trials"]
    more = everything and len(new) > len(old) and new[: len(old)] == old
    if everything and old != new and not more:
        differ.append("trials")
    if not more:
        differ += [key for key in searches[0] if searches[0][key] != searches[1][key]]
    if not differ and not (more and sweep.state == "running"):
        return not more
    found = f"other {', '.join(differ)}" if differ else "fewer trials, which still runs"
    raise UserError(
        Problem("SWEEP-E0308", "name", f"{sweep.name}, a sweep in Kubeflow Pipelines with {found}", "a new name, or "
                "the same sweep", "choose another name, or open the sweep by its name alone")
    )  # fmt: skip


def _is_planned(inputs: dict[str, Any], trial: dict[str, Any]) -> bool:
    """Return whether the plan takes a trial, as far as this machine can read its sources."""
    from pipelines.catalog import published_as
    from pipelines.kfp_values import our_value

    name = f"{inputs['sweep_search']['pipeline']}{SWEEP}"
    fields = published_as(name).parameters.model_fields
    arguments = {key: our_value(fields[key], value) for key, value in inputs.items()}
    try:
        plan_arguments(name, {**arguments, "trials": [trial]}, None, lambda line: None)
    except UserError:
        return False
    return True


def _refuse_unknown(done: list[dict[str, Any]]) -> None:
    """Raise UserError if no trial of a batch that succeeded is known in MLflow."""
    if all(one["state"] == "failed" and not one.get("mlflow_run_id") for one in done):
        raise UserError(
            Problem("SWEEP-E0310", "mlflow_server_uri", "a server without any trial of this sweep",
                    "the one to which the trials write", "set MLFLOW_TRACKING_URI here to an address of that server, "
                    "and wait or resume again", why="the next trials follow from the scores of these")
        )  # fmt: skip


def _state(made: Any) -> str:
    if not has_ended(made):
        return "running"
    if str(made.state) == "SUCCEEDED" and goes_on(made):
        return "stopped"
    return STATES.get(str(made.state), "failed")


def _place(server: Place) -> Server | Connection | None:
    return Connection(endpoint=os.fspath(server)) if isinstance(server, str | os.PathLike) else server


def _profile(profile: Any) -> Any:
    from pipelines.profile_file import read_profile

    return read_profile(Path(profile)) if isinstance(profile, str | os.PathLike) and os.fspath(profile) else profile
