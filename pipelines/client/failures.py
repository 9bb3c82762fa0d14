"""Why a run failed: the error of its step, from the pod's termination message, its log, or KFP's own words.

The first line of a termination message is for people, the second is JSON; a log ends with the problems in short lines
(`steps/messages.py`).
"""

from __future__ import annotations

import json
import re
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

SENTENCE = re.compile(r"[A-Z]+-[EWF]\d{4} .*")
HEADLINE = re.compile(r"(?P<step>[\w-]+) ended with code (?P<code>\d+) \((?P<meaning>[^)]*)\)[^:]*: (?P<told>.*)")
END_OF_LOG = re.compile(r"^ERROR (?P<step>[\w-]+) ended with code (?P<code>\d+) \([^)]*\).*$", re.MULTILINE)
OF_THE_LAUNCHER = re.compile(r"^[IWEF]\d{4} ")  # what KFP's launcher writes behind our last line
PARTS = ("where", "found", "expected", "why", "fix", "resume_from")
KINDS: dict[int, type[StepError]] = {
    kind.exit_code: kind for kind in (UserError, SecurityRefusal, Outage, OutOfResources, NumericError, Preempted)
}


def outcome_in(message: str) -> dict[str, Any] | None:
    """Return the outcome of a step (`StepError.as_json`) that a termination message tells; None if it tells none."""
    lines = [line for line in (message or "").strip().splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and {"code", "step", "found"} <= set(told):
            return _whole(told, lines[0])
    for line in lines:  # KFP, or Argo, may have kept the first line only
        if found := HEADLINE.search(line):
            return _from_headline(found)
    return None


def _whole(told: dict[str, Any], first_line: str) -> dict[str, Any]:
    first = SENTENCE.search(first_line)
    parts = {name: str(told.get(name, "")) for name in PARTS}
    left = int(told.get("left_out") or 0)
    problems = [first[0] if first else f"{parts['where']}: found {parts['found']}. Fix: {parts['fix']}"]
    problems += [str(problem) for problem in told.get("further_problems") or ()]
    problems += [f"{left} more: see the log of the task"] if left else []
    return {
        "code": int(told["code"]),
        "class": str(told.get("class", "")),
        "step": str(told["step"]),
        **parts,
        "retryable": bool(told.get("retryable")),
        "problems": problems,
    }


def _from_headline(found: re.Match[str]) -> dict[str, Any]:
    code = int(found["code"])
    problem = problem_in(found["told"])
    error = KINDS.get(code, StepError)(problem)
    return {**error.as_json(found["step"]), "code": code, "problems": [found["told"]]}


def outcome_of_log(log: str) -> dict[str, Any] | None:
    """Return the outcome of a step that the end of its log tells; None if it tells none."""
    heads = list(END_OF_LOG.finditer(log))
    if not heads:
        return None
    lines = [line for line in log[heads[-1].end() :].splitlines() if not OF_THE_LAUNCHER.match(line)]
    told = [" ".join(block.split()) for block in "\n".join(lines).split("\n\n")]
    problems = [sentence for sentence in told if SENTENCE.fullmatch(sentence)]
    if not problems:
        return None
    code = int(heads[-1]["code"])
    error = KINDS.get(code, StepError)([problem_in(sentence) for sentence in problems])
    return {**error.as_json(heads[-1]["step"]), "code": code, "problems": problems}


def problem_in(sentence: str) -> Problem:
    """Read a problem that was told as a sentence."""
    code, _, rest = sentence.partition(" ")
    place, _, told = rest.partition(": found ")
    found, _, more = told.partition("; expected ")
    wanted, _, fix = more.partition(" Fix: ")
    expected, _, why = wanted.removesuffix(".").partition(", because ")
    return Problem(code, place, found, expected, fix.removesuffix("."), why=why)


def of_a_pod(task: str, reason: str, said: str, code: int | None) -> dict[str, Any]:
    """Return the outcome of a pod that ended without a message of ours."""
    if reason == "OOMKilled":
        error: StepError = OutOfResources(
            Problem("CLIENT-E0501", task, "a pod that was killed for its memory (OOMKilled)", "enough memory",
                    "use an instance type with more memory, a smaller batch, or max_seq_length")
        )  # fmt: skip
    elif reason == "DeadlineExceeded":
        error = OutOfResources(Problem("CLIENT-E0502", task, "a pod that ran longer than its limit", "an end before",
                                       "raise times in the profile, or train shorter"))  # fmt: skip
    elif code == Preempted.exit_code:
        error = Preempted(Problem("CLIENT-E1432", task, said or "a pod that was stopped from outside (SIGTERM)",
                                  "a pod that runs to its end", "submit the run again"))  # fmt: skip
    else:
        words = ", ".join(part for part in (reason, said, f"exit code {code}" if code is not None else "") if part)
        error = Outage(Problem("CLIENT-E0405", task, words or "a pod that failed without a message",
                               "a pod that runs to its end", "see the log of the task, and run again"))  # fmt: skip
    return error.as_json(task)


def of_the_api(task: str, said: str, address: str) -> dict[str, Any]:
    """Return the outcome of a failed run from the words of KFP's API, which may be none."""
    if outcome := outcome_in(said):
        return outcome
    problem = Problem("CLIENT-E0210", task, said or "a task that failed, for which KFP's API tells no reason",
                      "a task that succeeds", f"read the end of its log: {address}")  # fmt: skip
    return UserError(problem).as_json(task)


def canceled(address: str) -> dict[str, Any]:
    """Return the outcome of a run that somebody terminated."""
    return Preempted(Problem("CLIENT-E1431", "the run", "a run that was terminated", "a run that ends by itself",
                             f"submit it again, or see {address}")).as_json("run")  # fmt: skip
