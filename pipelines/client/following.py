"""Follow a run: its tasks as their state changes, until it ends."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.client.connection import Server, quiet
from pipelines.client.display import Shown
from pipelines.client.failures import canceled, of_a_pod, of_the_api, outcome_in, outcome_of_log
from pipelines.client.pods import Pods, PodState
from steps.errors import Outage, Problem, StepError

ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED", "ERROR"}  # kfp's own client waits for ever for CANCELED
LOOK_EVERY = 5.0  # seconds
PATIENCE = 300.0  # seconds without an answer of KFP after which following ends
INNER = re.compile(r"executor(\(\d+\))?|root|.*-driver|iteration.*")
EVALUATE = ("evaluate", "evaluate-best")  # the second of a sweep
GATE = "condition-1"  # the first condition in the graph of every pipeline that trains: what is behind the gate
POD_TEMPLATE = "-system-container-impl-"  # in names of pods; KFP has the name of the node in Argo, without it
NOT_TAKEN = {"SKIPPED", "CANCELED", "OMITTED"}


@dataclass(repr=False)
class Run(Shown):
    """A run in KFP."""

    id: str
    name: str
    state: str
    address: str
    pipeline: str = ""
    created: str = ""
    gate: str = ""
    """"passed" or "refused"; empty while it is not known."""
    command: str = ""
    """The command of kfp that starts the same run; empty for runs that were not submitted here."""
    error: dict[str, Any] | None = None
    """Why it failed (`StepError.as_json`); None if it did not, or was not followed."""

    @property
    def url(self) -> str:
        """The address of its page in the user interface."""
        return self.address

    def rows(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return [("run", self.name), ("pipeline", self.pipeline), ("created", self.created), ("state", self.state),
                ("gate", self.gate), ("error", (self.error or {}).get("problems", [""])[0]),
                ("address", self.address)]  # fmt: skip


def follow(
    server: Server,
    run: Run,
    tell: Callable[[str], None] = print,
    timeout: float = 0,
    labels: dict[str, str] | None = None,
) -> Run:
    """Tell each change of the run's tasks and pods until it ends; return it with its last state, gate and error.

    `timeout` is in seconds, 0 for none; `labels` are names of tasks for people. Raises Outage if KFP does not answer
    for five minutes, or if the time is over; the run goes on.
    """
    look = _Look(server, run, tell, labels or {})
    try:
        return _followed(look, timeout)
    except (KeyboardInterrupt, StepError):
        tell(f"not followed any more; the run goes on: {run.address}")
        raise


def error_of(server: Server, made: Any) -> dict[str, Any] | None:
    """Return why a run that has ended failed (`StepError.as_json`), as far as KFP and Kubernetes tell; None if not."""
    look = _Look(server, read_run(server, made), lambda line: None, {})
    look.at(made)
    return look.ended(made).error


def _followed(look: _Look, timeout: float) -> Run:
    started = answered = time.monotonic()
    while True:
        try:
            made = _asked(look.server, look.run.id)
            answered = time.monotonic()
        except Outage as error:
            if time.monotonic() - answered > PATIENCE:
                raise
            look.once("KFP", f"no answer, asking again: {error.problems[0].found}")
        else:
            look.at(made)
            if look.run.state in ENDED:
                return look.ended(made)
        if timeout and time.monotonic() - started > timeout:
            raise Outage(
                Problem("CLIENT-E0406", look.run.name, f"the state {look.run.state} after {timeout:.0f} s",
                        "the end of the run", f"wait longer; the run goes on: {look.run.address}"), transient=False
            )  # fmt: skip
        time.sleep(LOOK_EVERY)


def _asked(server: Server, run_id: str) -> Any:
    with quiet():
        return server.client.get_run(run_id)


def read_run(server: Server, made: Any, pipeline: str = "") -> Run:
    """Return a run as KFP's API describes it."""
    address = server.page(f"runs/details/{made.run_id}")
    created = made.created_at.astimezone().strftime("%Y-%m-%d %H:%M") if made.created_at else ""
    state = str(made.state or "PENDING").removeprefix("RUNTIME_STATE_")
    return Run(made.run_id, made.display_name, state, address, pipeline, created, gate_of(made))


def gate_of(made: Any) -> str:
    """Return what the gate said: the tasks behind it ran, or were left out. Empty if it was not reached."""
    tasks = _tasks(made)
    if not any(task.display_name in EVALUATE and task.state == "SUCCEEDED" for task in tasks):
        return ""
    behind = [task for task in tasks if task.display_name == GATE and task.state not in NOT_TAKEN]
    return "passed" if behind else "refused" if made.state in ENDED else ""


def _tasks(made: Any) -> list[Any]:
    return list((made.run_details.task_details if made.run_details else None) or ())


class _Look:
    """What was told of a run so far."""

    def __init__(self, server: Server, run: Run, tell: Callable[[str], None], labels: dict[str, str]):
        self.server, self.run, self.tell, self.labels = server, run, tell, labels
        self.told: dict[str, str] = {}
        self.failed: dict[str, PodState] = {}
        self.pods = Pods(server, run.id)
        if self.pods.refused:
            self.once("pods", f"not asked, no access to Kubernetes: {self.pods.refused}")

    def once(self, what: str, words: str) -> None:
        """Tell something, unless it is the last thing that was told of this."""
        if self.told.get(what) != words:
            self.told[what] = words
            self.tell(f"{time.strftime('%H:%M:%S')} {what:<20} {words}")

    def at(self, made: Any) -> None:
        """Tell what changed."""
        self.run.state = str(made.state or "PENDING")
        for task in _tasks(made):
            name = task.display_name or ""
            inner = INNER.fullmatch(name) or name in ("", made.display_name, task.pod_name)
            if task.state and not inner:
                self.once(self.labels.get(name, name), str(task.state))
        if self.pods.refused and "pods" not in self.told:
            self.once("pods", f"not asked, no access to Kubernetes: {self.pods.refused}")
        for pod in self.pods.states():
            if pod.failed:
                self.failed[pod.task] = pod
            elif pod.waits_for:
                self.once(f"{pod.task} ", f"waits: {' '.join(pod.waits_for.split())}")

    def ended(self, made: Any) -> Run:
        """Return the run with its gate and error."""
        self.run.gate = gate_of(made)
        if self.run.state == "CANCELED":
            self.run.error = canceled(self.run.address)
        elif self.run.state != "SUCCEEDED":
            self.run.error = self._error(made)
        return self.run

    def _error(self, made: Any) -> dict[str, Any]:
        ended = list(reversed(self.failed.values()))  # an earlier one may have been started again
        for pod in ended:
            if outcome := outcome_in(pod.message):
                return outcome
        for pod in ended:
            return of_a_pod(pod.task, pod.reason, pod.said, pod.code)
        failed = [task for task in _tasks(made) if task.state == "FAILED"]
        named = [task for task in failed if not INNER.fullmatch(task.display_name or "")] or failed
        for task in failed:
            if outcome := outcome_of_log(self._log(task)):
                return outcome
        for task in (*named, *failed, made):
            if said := _said(task):
                return of_the_api(named[-1].display_name if named else "the run", said, self.run.address)
        return of_the_api(named[-1].display_name if named else "the run", "", self.run.address)

    def _log(self, task: Any) -> str:
        """Return the log of a task's pod from KFP's API server; empty if it does not tell it."""
        names = [task.pod_name, *(child.pod_name for child in task.child_tasks or ())]
        for name in dict.fromkeys(name for name in names if name):
            workflow, _, number = name.rpartition("-")
            for pod in (name, f"{workflow}{POD_TEMPLATE}{number}"):
                with contextlib.suppress(StepError), quiet():
                    return str(self.server.client.log_of(self.run.id, pod))
        return ""


def _said(thing: Any) -> str:
    """Return the error of a task or run, from itself or from the history of its states."""
    errors = [thing.error, *(state.error for state in thing.state_history or ())]
    return next((error.message for error in errors if error and error.message), "")
