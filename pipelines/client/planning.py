"""The plan on this machine before a run is submitted, as far as this machine sees what the cluster sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipelines.client.failures import KINDS, problem_in
from pipelines.client.packages import Package
from pipelines.client.values import Values
from steps.errors import Outage, Problem, UserError, shown
from steps.params.compute import CLUSTER
from steps.running import LOCAL_ROOT

if TYPE_CHECKING:
    from pipelines.profile import Profile

PLAN_SECONDS = 120
# Problems that the cluster may not have: nothing at a path, no credentials, no answer, no MLflow server, no package.
ONLY_HERE = {
    "URI-E0201", "URI-E0202", "URI-E0203", "URI-E0204", "URI-E0401", "HUB-E0201", "HUB-E0203", "HUB-E0204", "HUB-E0401",
    "SERVICE-E0201", "SERVICE-E0401", "REGISTRY-E0101", "PLAN-E0303", "PLAN-E0311",
}  # fmt: skip
# Variables of this machine that pods do not have.
OWN = {LOCAL_ROOT, "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"}
REMOTE = "://"


def plan_here(package: Package, values: Values, profile: Profile | None, tell: Callable[[str], None]) -> bool:
    """Plan as a task of the cluster would, and return whether it could be done here.

    A source that only the cluster can read is told, and does not stop. Raises the plan's error with the problems
    of everything else.
    """
    assert package.published is not None
    return plan_arguments(package.published.name, values.arguments, profile, tell)


def plan_arguments(
    name: str, arguments: Mapping[str, Any], profile: Profile | None, tell: Callable[[str], None]
) -> bool:
    """Do the same with the arguments of a pipeline, by its name."""
    outcome = _outcome(name, arguments, profile)
    if outcome is None:
        tell("planned here: parameters, data and model fit each other")
        return True
    problems = [problem_in(sentence) for sentence in outcome["problems"]]
    wrong = [problem for problem in problems if problem.code not in ONLY_HERE or _is_missing(problem)]
    kind = KINDS.get(outcome["code"], Outage)
    if kind is not Outage and wrong:
        raise kind(wrong)
    for problem in problems:
        tell(f"not planned here: {problem.where}: {problem.found}")
    tell("the plan of the run checks it on the cluster")
    return False


def _is_missing(problem: Problem) -> bool:
    """Return whether a source that is missing here is missing on the cluster too: an address, not a path."""
    return problem.code == "URI-E0201" and REMOTE in problem.found


def refuse_own_files(arguments: Mapping[str, Any], profile: Profile | None) -> None:
    """Raise UserError for paths of files that are here: pods do not see them, but what a volume of the profile has."""
    mounts = [volume.mount_path.rstrip("/") + "/" for volume in profile.volumes] if profile else []
    problems = []
    for name, value in arguments.items():
        for part in value.split(",") if name.endswith("_path") and isinstance(value, str) else ():
            path = part.strip().removeprefix("file://")
            if not path or REMOTE in path or ":/" in path or any(path.startswith(mount) for mount in mounts):
                continue
            if os.path.exists(path):
                problems.append(
                    Problem("CLIENT-E0109", name, f"{path!r} on this machine", "something that pods can read",
                            "copy it to the object store and give its address, or to a volume of the profile")
                )  # fmt: skip
    if problems:
        raise UserError(problems)


def _outcome(name: str, arguments: Mapping[str, Any], profile: Profile | None) -> dict[str, Any] | None:
    """Return the error of a plan in a process of its own, with the environment that the profile gives to pods."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["plan", "--pipeline", name, "--arguments", json.dumps(dict(arguments)),
                 "--plan", f"{folder}/plan", "--report", f"{folder}/plan.html"]  # fmt: skip
        command = [sys.executable, "-W", "ignore", "-m", "steps", *words]
        try:
            done = subprocess.run(
                command, env=_environment(profile), capture_output=True, text=True, timeout=PLAN_SECONDS
            )
        except subprocess.TimeoutExpired:
            return _unknown(Problem("CLIENT-E0403", "plan", f"no result within {PLAN_SECONDS} s", "a plan", "wait"))
    if done.returncode == 0:
        return None
    try:
        return dict(json.loads(done.stderr.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return _unknown(Problem("CLIENT-E0404", "plan", shown(last), "a plan", "see `finetune plan`"))


def _unknown(problem: Problem) -> dict[str, Any]:
    return {"code": Outage.exit_code, "problems": [str(problem)]}


def _environment(profile: Profile | None) -> dict[str, str]:
    made = {name: value for name, value in os.environ.items() if name not in OWN}
    made["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    if profile:
        made[CLUSTER] = profile.for_the_plan
        if profile.tracking.uri:
            made["MLFLOW_TRACKING_URI"] = profile.tracking.uri
    return made
