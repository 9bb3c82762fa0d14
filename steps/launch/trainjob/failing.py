"""Which error a TrainJob that failed reports.

That of the training itself, if it told one; else what its pods left: a termination message, the reason why Kubernetes
ended them, the exit code of a container. When one node fails the others follow with errors of their connections, so
what names a cause is preferred to what only names an end, and of those the earliest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steps.errors import (
    NumericError,
    Outage,
    OutOfResources,
    Preempted,
    Problem,
    SecurityRefusal,
    StepError,
    UserError,
)  # fmt: skip
from steps.launch.meeting import LOST
from steps.launch.trainjob.api import Api, rank_of
from steps.launch.trainjob.creating import Job
from steps.launch.trainjob.logs import LINES, last_lines
from steps.launch.trainjob.manifest import NODE

KINDS: dict[int, type[StepError]] = {
    kind.exit_code: kind for kind in (UserError, SecurityRefusal, Outage, OutOfResources, NumericError, Preempted)
}
KILLED = 137  # by SIGKILL, which a machine without memory sends
DISRUPTED = {"Evicted", "Preempting", "Shutdown", "NodeShutdown", "NodeLost", "Terminated", "NodeAffinity"}
MEANING = {
    2: "wrong data or parameters", 3: "a refusal for security", 4: "a service that did not answer",
    5: "no memory or disk", 6: "numbers that are not finite", 70: "a bug",
}  # fmt: skip
EVENTS = 10  # of each object, the last ones
CODE = re.compile(r"[A-Z]+-[EWF]\d{4}")
PARTS = ("where", "found", "expected", "fix", "why")


@dataclass(frozen=True)
class Ended:
    """A pod of a node that did not succeed."""

    name: str
    rank: int
    code: int | None
    reason: str
    message: str
    finished: str
    disrupted: str
    """Why Kubernetes ended it; empty if it ended by itself."""

    @property
    def told(self) -> str:
        """How it ended, in a few words."""
        how = self.disrupted or self.reason
        code = f"exit code {self.code}" if self.code is not None else ""
        return ", ".join(part for part in (how if how != "Error" else "", code) if part) or "no exit code"


def error_of(api: Api, job: Job, told: StepError | None) -> StepError:
    """Return the error of a job that failed, with events and the last lines of every failed pod as its notes."""
    pods = _seen(lambda: api.pods_of(job["metadata"]["name"]))
    ended = sorted(_ended(pods), key=lambda one: (one.finished or "9", one.rank))
    error = _tried_again(_ended_from_outside(told, ended) or told or _of_pods(job, ended) or _of_condition(job))
    for note in _notes(api, job, pods, ended):
        error.add_note(note)
    return error


def _ended_from_outside(told: StepError | None, ended: list[Ended]) -> StepError | None:
    """Return why Kubernetes ended a pod, if the training only told that a node had gone."""
    if told is None or told.problems[0].code != LOST:
        return None
    if disrupted := [one for one in ended if one.disrupted]:
        return _preempted(disrupted[0])
    killed = [one for one in ended if one.reason == "OOMKilled" or one.code == KILLED]
    return _no_memory(killed[0]) if killed else None


def _of_pods(job: Job, ended: list[Ended]) -> StepError | None:
    """Return the error that the pods tell; None if a limit ended the job, or no pod tells anything."""
    if _condition(job).get("reason") == "DeadlineExceeded":
        return None
    told = [error for one in ended if (error := _in_message(one.message))]
    if own := [error for error in told if not isinstance(error, Preempted)]:
        return own[0]
    if disrupted := [one for one in ended if one.disrupted]:
        return _preempted(disrupted[0])
    if killed := [one for one in ended if one.reason == "OOMKilled" or one.code == KILLED]:
        return _no_memory(killed[0])
    if known := [one for one in ended if one.code in MEANING]:
        return _by_code(known[0])
    if stopped := [one for one in ended if one.code == Preempted.exit_code]:
        return told[0] if told else _preempted(stopped[0])
    return _unknown(ended[0]) if ended else None


def _in_message(message: str) -> StepError | None:
    """Return the error in a termination message of ours (`steps/messages.py`), whose last line is JSON."""
    try:
        told = json.loads(message.strip().splitlines()[-1])
        kind = KINDS.get(int(told["code"]), StepError)
        first = {part: str(told.get(part, "")) for part in PARTS}
        code = CODE.search(message)
        problem = Problem(
            code[0] if code else "NODES-E0211",
            first["where"],
            first["found"],
            first["expected"],
            first["fix"],
            why=first["why"],
        )
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    error = kind(problem, resume_from=str(told.get("resume_from", "")))
    for other in told.get("further_problems") or ():
        error.add_note(str(other))
    return error


def _tried_again(error: StepError) -> StepError:
    """Let this task begin the training again by itself after a preemption: it goes on at its newest checkpoint."""
    if isinstance(error, Preempted):
        error.transient = True
    return error


def _preempted(one: Ended) -> StepError:
    return Preempted(
        Problem("NODES-E1432", f"node {one.rank} ({one.name})", f"a pod that was stopped from outside: {one.told}",
                "nodes that stay until the end", "run again: it goes on at its newest checkpoint")
    )  # fmt: skip


def _no_memory(one: Ended) -> StepError:
    return OutOfResources(
        Problem("NODES-E0501", f"node {one.rank} ({one.name})", f"a pod that was killed for its memory: {one.told}",
                "memory for weights, optimizer states and rows", "use an instance_type_finetune with more memory, more "
                "nodes with distributed_strategy=fsdp, or a smaller max_seq_length")
    )  # fmt: skip


def _by_code(one: Ended) -> StepError:
    code = int(one.code or 0)
    return KINDS.get(code, StepError)(
        Problem("NODES-E0209", f"node {one.rank} ({one.name})", f"exit code {code}: {MEANING[code]}",
                "a training that ends with 0", "see the last lines of its log above")
    )  # fmt: skip


def _unknown(one: Ended) -> StepError:
    return Outage(
        Problem("NODES-E0403", f"node {one.rank} ({one.name})", one.told, "a training that ends with 0",
                "see the last lines of its log above, and run again"), transient=False
    )  # fmt: skip


def _of_condition(job: Job) -> StepError:
    """Return the error that only the job's condition tells."""
    failed, name = _condition(job), job["metadata"]["name"]
    reason = str(failed.get("reason") or "Failed")
    words = " ".join(str(failed.get("message") or "no details").split())[:500]
    if reason == "DeadlineExceeded":
        hours = (job["spec"].get("activeDeadlineSeconds") or 0) / 3600
        return OutOfResources(
            Problem("NODES-E0502", f"TrainJob {name}", f"a training that took longer than {hours:g} hours",
                    "an end before its deadline", "raise deadline_hours_finetune; with resume_from_checkpoint=auto it "
                    "goes on at its newest checkpoint")
        )  # fmt: skip
    if "Runtime" in reason:
        return UserError(
            Problem("NODES-E0210", f"TrainJob {name}", f"{reason}: {words}", "a runtime that the Trainer supports",
                    "create the one of docs/training-runtime.yaml, or set training_runtime_finetune")
        )  # fmt: skip
    return Outage(
        Problem("NODES-E0404", f"TrainJob {name}", f"{reason}: {words}", "a training that ends with 0",
                f"run again; see kubectl describe trainjob {name}"), transient=False
    )  # fmt: skip


def _condition(job: Job) -> Mapping[str, Any]:
    found = (job.get("status") or {}).get("conditions") or ()
    return next((one for one in found if one["type"] == "Failed" and one["status"] == "True"), {})


def _ended(pods: Iterable[Mapping[str, Any]]) -> Iterator[Ended]:
    for pod in pods:
        status = pod.get("status") or {}
        states = [one for one in status.get("containerStatuses") or () if one["name"] == NODE]
        state = (states[0].get("state") or {}) if states else {}
        last = (states[0].get("lastState") or {}) if states else {}
        over = state.get("terminated") or (last.get("terminated") if "running" not in state else None) or {}
        disrupted = _disruption(status)
        if status.get("phase") != "Failed" and not over.get("exitCode") and not disrupted:
            continue
        yield Ended(
            pod["metadata"]["name"], rank_of(pod), over.get("exitCode"), over.get("reason") or "",
            over.get("message") or "", over.get("finishedAt") or "", disrupted,
        )  # fmt: skip


def _disruption(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions") or ():
        if condition["type"] == "DisruptionTarget" and condition["status"] == "True":
            return ": ".join(part for part in (condition.get("reason"), condition.get("message")) if part)[:200]
    reason = status.get("reason") or ""
    return f"{reason}: {status.get('message') or ''}"[:200].rstrip(": ") if reason in DISRUPTED else ""


def _notes(api: Api, job: Job, pods: Iterable[Mapping[str, Any]], ended: Iterable[Ended]) -> Iterator[str]:
    name = job["metadata"]["name"]
    if events := _events(api, name):
        yield f"Events of TrainJob {name}:\n" + "\n".join(events)
    by_name = {pod["metadata"]["name"]: pod for pod in pods}
    for one in ended:
        lines = [f"Node {one.rank} ({one.name}) ended with {one.told}.", *_events(api, one.name)]
        lines += [f"  | {line}" for line in last_lines(api, by_name[one.name], LINES)]
        yield "\n".join(lines)
    yield f"TrainJob {name} in namespace {api.namespace} is kept: kubectl describe trainjob {name}"


def _events(api: Api, name: str) -> list[str]:
    found = _seen(lambda: api.events_of(name))
    found.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
    return [
        f"  {event.get('type', '')} {event.get('reason', '')}: {' '.join(str(event.get('message', '')).split())[:300]}"
        for event in found[-EVENTS:]
    ]


def _seen(look: Any) -> list[dict[str, Any]]:
    """Return what can be seen; nothing of it decides how the training ended."""
    try:
        return list(look())
    except Exception:
        return []
