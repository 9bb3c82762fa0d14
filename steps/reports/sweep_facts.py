"""What the report of a sweep tells in words and tables: the trials in their order, the verdict, why trials failed."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from steps.params.sweep import STATES
from steps.reports.formats import NOTHING, cut, parameter
from steps.reports.sections.evaluation import reason

REASON_SHOWN = 90  # characters in the table; a click shows the rest
CAUSES_SHOWN = 6
CAUSE_SHOWN = 240  # characters of the cause in the verdict
VALUE_SHOWN = 40  # characters of a parameter's value
METRICS_IN_TABLE = 3  # besides the score; more of them are in a table of their own


def is_measured(trial: dict[str, Any]) -> bool:
    """Return whether a trial finished with a score that can be compared."""
    return trial.get("state") == "finished" and finite(trial.get("score")) is not None


def finite(value: Any) -> float | None:
    """Return a number, or None for everything else, including infinity."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def ranked(sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials in the order of the table: the best one first, pruned and failed ones last."""
    sign = -1 if sweep.get("higher_is_better", True) else 1
    best = best_number(sweep)

    def rank(trial: dict[str, Any]) -> tuple:
        state, score = trial.get("state"), finite(trial.get("score"))
        order = STATES.index(state) if state in STATES else len(STATES)
        return (trial.get("number") != best, order, score is None, sign * (score or 0), trial.get("number", 0))

    return sorted(sweep.get("trials") or [], key=rank)


def best_number(sweep: dict[str, Any]) -> int | None:
    """Return the number of the best trial, None if there is none yet."""
    if sweep.get("best") is not None:
        return sweep["best"]
    return next((trial.get("number") for trial in sweep.get("trials") or () if trial.get("best")), None)


def counts(trials: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many trials are in each state, without the states that none is in."""
    states = [trial.get("state") for trial in trials]
    return {state: states.count(state) for state in STATES if state in states}


def varied_of(sweep: dict[str, Any]) -> list[str]:
    """Return the names of the parameters that vary, those of the sweep first."""
    trials = sweep.get("trials") or []
    found = [name for trial in trials for name in trial.get("parameters") or {}]
    return list(dict.fromkeys([*(sweep.get("varied") or []), *found]))


def badge(sweep: dict[str, Any], found: dict[str, int]) -> tuple[str, str]:
    """Return the word of the verdict and its class in style.css."""
    if found.get("running"):
        return "Running", "warned"
    if found.get("waiting"):
        return "Not finished", "warned"
    passed = ((sweep.get("final") or {}).get("gate") or {}).get("passed")
    if passed is not None:
        return ("Passed", "passed") if passed else ("Not passed", "refused")
    if found and not found.get("finished"):
        return ("No result", "warned") if found.get("pruned") else ("Failed", "refused")
    return "Finished", "unknown"


def causes(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return why trials failed, most frequent first; reasons that differ only in their numbers are one cause."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for trial in trials:
        if trial.get("state") == "failed":
            told = " ".join(str(trial.get("reason") or "no reason was recorded").split())
            groups.setdefault(re.sub(r"\d+", "0", told), []).append({**trial, "reason": told})
    largest = sorted(groups.values(), key=lambda group: -len(group))
    return [
        {
            "text": cut(group[0]["reason"]),
            "brief": shortened(group[0]["reason"], CAUSE_SHOWN),
            "count": len(group),
            "trials": [trial.get("number") for trial in group],
            "alike": len({trial["reason"] for trial in group}) == 1,
        }
        for group in largest
    ]


def trial_rows(trials: list[dict[str, Any]], varied: list[str]) -> list[dict[str, Any]]:
    """Return the rows of the table of trials."""
    rows = []
    for trial in trials:
        values = trial.get("parameters") or {}
        told = " ".join(str(trial.get("reason") or "").split())
        rows.append(
            {
                "number": trial.get("number"),
                "state": trial.get("state") or "",
                "values": [_value(values, name) for name in varied],
                "score": finite(trial.get("score")),
                "metrics": {name: finite(value) for name, value in (trial.get("metrics") or {}).items()},
                "steps": trial.get("steps"),
                "max_steps": trial.get("max_steps"),
                "seconds": finite(trial.get("seconds")),
                "tokens": trial.get("tokens"),
                "run": trial.get("mlflow_run_id") or "",
                "reason": {"brief": shortened(told, REASON_SHOWN), "whole": cut(told)},
            }
        )
    return rows


def _value(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a parameter's value for a cell: `brief` in four digits, `whole` exactly."""
    if name not in values:
        return {"brief": NOTHING, "whole": cut(NOTHING), "long": False}
    value = values[name]
    told = parameter(value) or '""'
    whole = value or '""' if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return {"brief": shortened(told, VALUE_SHOWN), "whole": cut(whole), "long": len(told) > VALUE_SHOWN}


def shortened(text: str, length: int) -> str:
    """Shorten a text behind a word."""
    if len(text) <= length:
        return text
    start = text[:length]
    return (start.rsplit(" ", 1)[0] if " " in start[length // 2 :] else start).rstrip(" .,") + "…"


def other_metrics(sweep: dict[str, Any]) -> list[str]:
    """Return the names of the trials' metrics besides that of the score."""
    names = [name for trial in sweep.get("trials") or () for name in trial.get("metrics") or {}]
    return [name for name in dict.fromkeys(names) if name != sweep.get("metric")]


def registered_words(final: dict[str, Any]) -> str:
    """Return the sentence about the registered version."""
    registered = final.get("registered")
    if not registered:
        return "No version is registered."
    told = f"Registered as version {registered.get('version')} of {registered.get('name')}"
    return f"{told} ({registered['model_uri']})." if registered.get("model_uri") else f"{told}."


def gate_words(final: dict[str, Any]) -> str:
    """Return the gate's reason as a sentence."""
    told = reason(final.get("gate") or {})
    return told if not told or told.endswith(".") else f"{told}."
