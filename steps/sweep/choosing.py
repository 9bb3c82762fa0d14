"""The step `choose-trial`: the best trial of a sweep, its settings for the later tasks, and the facts of all trials."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from steps import wire
from steps.artifacts import new_artifact, read_manifest
from steps.errors import NumericError, OutOfResources, Problem, StepError, UserError
from steps.params.metrics import direction_of
from steps.params.sweep import ENDED
from steps.reports.facts import PLAN, read
from steps.sweep.importance import importance
from steps.sweep.tracked import track_sweep

log = logging.getLogger("finetune")

SWEEP = "sweep.json"
CLASSES: dict[int, type[StepError]] = {kind.exit_code: kind for kind in (OutOfResources, NumericError)}


class Choice(NamedTuple):
    """What the later tasks need of the best trial."""

    evaluation: str
    """Settings of evaluate."""
    registration: str
    """Settings of register_model."""
    tuned_uri: str
    model: str
    """Place of its model among those of the sweep."""
    data: str
    """Place of its data among those of the sweep."""


def choose_trial(
    results: list[Any],
    chosen_plan: Path,
    sweep: Path,
    report: Path,
    plan: Path | None = None,
    planned: dict[str, Any] | None = None,
    about: dict[str, Any] | None = None,
) -> Choice:
    """Choose the best trial by its score on the validation rows; of equal ones the cheaper.

    `results` are the texts that trials returned, also as lists of such lists; `plan` is the plan of the sweep, or
    `planned` the content of its plan.json; `about` are further facts of sweep.json. `sweep` becomes an artifact with
    sweep.json, `report` its page, `chosen_plan` the plan of the best trial. Raises an error of the trials' class if
    none finished.
    """
    if (plan is None) == (planned is None):
        raise ValueError("choose_trial needs either plan or planned")
    lineage = {"inputs": {"plan": read_manifest(plan, "plan").digest}} if plan else {}
    known = read(plan / PLAN) if plan else planned
    assert known is not None
    facts = sweep_facts(known, [json.loads(text) for text in _flat(results)], about or {})
    if facts["best"] is None:
        raise _none_finished(facts["trials"])
    best = next(trial for trial in known["sweep"]["trials"] if trial["number"] == facts["best"])
    with new_artifact(sweep, "sweep", lineage) as draft:
        (draft / SWEEP).write_text(json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        draft.facts = {"best": facts["best"], "trials": len(facts["trials"])}
    with new_artifact(chosen_plan, "plan", lineage) as draft:
        (draft / PLAN).write_text(json.dumps(best["summary"], indent=1, ensure_ascii=False), encoding="utf-8")
    from steps.reports import write_sweep_report

    write_sweep_report(sweep, report)
    log.info(told(facts))
    track_sweep(best["summary"]["effective"], facts, report)
    chosen = next(trial for trial in facts["trials"] if trial["best"])
    later = {name: wire.dump(best["settings"][name]) for name in ("evaluation", "registration")}
    return Choice(**later, tuned_uri=chosen["tuned_uri"], model=str(best["model"]), data=str(best["data"]))


def sweep_facts(planned: dict[str, Any], results: list[dict[str, Any]], about: dict[str, Any]) -> dict[str, Any]:
    """Return sweep.json: what was planned, what is known of each trial, and the best of those that are finished.

    `planned` is plan.json; `results` have the fields of trial.json, as far as they are known.
    """
    sweep = planned["sweep"]
    found_by = sweep.get("search") or {}
    higher = bool(direction_of(sweep["metric"]))
    tokens = {trial["number"]: trial.get("tokens") or 0 for trial in sweep["trials"]}
    best = best_of(results, higher, tokens)
    lines = {trial["number"]: {"number": trial["number"], "parameters": trial["parameters"], "state": "waiting"}
             for trial in sweep["trials"]}  # fmt: skip
    for result in results:
        lines[result["number"]] = {**lines.get(result["number"], {"parameters": {}}), **result}
    facts = {
        "name": sweep["name"],
        "pipeline": planned["pipeline"],
        "metric": sweep["metric"],
        "higher_is_better": higher,
        "search": found_by.get("search") or "trials",
        "pruner": sweep["pruner"],
        "space": found_by.get("space") or {},
        "varied": sweep["varied"],
        "trials": [{**lines[number], "best": number == best} for number in sorted(lines)],
        "best": best,
        "importance": {},
        "final": None,
        "cost": _cost(sweep, results),
        **about,
    }
    return facts if "importance" in about else {**facts, "importance": importance(facts)}


def best_of(results: Iterable[dict[str, Any]], higher: bool, tokens: Mapping[int, int]) -> int | None:
    """Return the number of the best finished trial, of equal ones the cheaper: fewer tokens, then fewer weights.

    `tokens` are those that the plan expects of each trial: what was counted depends on where a training was resumed.
    """
    finished = [one for one in results if one.get("state") == "finished" and one.get("score") is not None]

    def place(one: dict[str, Any]) -> tuple[float, int, int, int]:
        score = -one["score"] if higher else one["score"]
        return score, tokens.get(one["number"], 0), one.get("trained") or 0, one["number"]

    return int(min(finished, key=place)["number"]) if finished else None


def _cost(sweep: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any]:
    ended = [one for one in results if one.get("state") in ENDED]
    return {
        "trainings": len(ended),
        "preparations": sweep["preparations"],
        "steps": sum(one.get("steps") or 0 for one in results),
        "seconds": round(sum(one.get("seconds") or 0.0 for one in results), 1),
    }


def _flat(results: list[Any]) -> Iterable[str]:
    """Yield the texts: KFP's local runner gives a list for each lane, its backend one list."""
    for one in results:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one


def _none_finished(trials: list[dict[str, Any]]) -> StepError:
    """Return the error of a sweep of which every trial failed: each reason once."""
    numbers: dict[str, list[int]] = {}
    codes = set()
    for trial in trials:
        numbers.setdefault(trial.get("reason", "") or trial["state"], []).append(trial["number"])
        codes.add((trial.get("error") or {}).get("code", UserError.exit_code))
    kind = CLASSES.get(codes.pop(), UserError) if len(codes) == 1 else UserError
    return kind(
        Problem("SWEEP-E0212", f"trial {', '.join(map(str, which))}", reason, "a trial that finishes",
                "change the parameters of the trials, or those that all of them share")
        for reason, which in numbers.items()
    )  # fmt: skip


def told(facts: dict[str, Any]) -> str:
    """Format the table of trials for a log."""
    lines = [f"sweep {facts['name']}: {facts['metric']} on the validation rows"]
    for trial in facts["trials"]:
        values = "  ".join(f"{name}={value}" for name, value in trial["parameters"].items())
        score = f"{trial['score']:.6g}" if trial.get("score") is not None else trial["state"]
        lines.append(f"  {'*' if trial['best'] else ' '} {trial['number']:>3}  {score:<10} {values}"
                     f"{'  ' + trial['reason'] if trial.get('reason') else ''}")  # fmt: skip
    return "\n".join(lines)
