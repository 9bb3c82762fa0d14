"""Summary of the plan of a sweep: as data for plan.json and the report, and as text for a terminal."""

from __future__ import annotations

from typing import Any

from steps.params.metrics import direction_of
from steps.params.sweep import as_cell
from steps.plan.requests import as_table
from steps.plan.summary import summary_of
from steps.plan.sweeps import Sweep, Trial
from steps.reports.formats import duration

UNKNOWN = "unknown"


def summary_of_sweep(sweep: Sweep) -> dict[str, Any]:
    """Return the plan as data: that of the first trial, and under `sweep` what all share and what each adds."""
    first = summary_of(sweep.trials[0].decisions)
    trials = [_trial(trial, sweep) for trial in sweep.trials]
    return {
        **first,
        "tasks": _requests(first["tasks"], sweep),
        "warnings": sweep.warnings,
        "sweep": {
            "name": sweep.name,
            "metric": sweep.metric,
            "higher_is_better": bool(direction_of(sweep.metric)),
            "pruner": sweep.parameters.pruner,
            "search": sweep.parameters.sweep_search,
            "parallelism": min(sweep.parameters.parallelism, len(trials)),
            "varied": list(sweep.trials[0].varied),
            "models": len(sweep.models),
            "preparations": len(sweep.data),
            "trials": trials,
            "total": _total(trials, sweep.parameters.parallelism),
        },
    }


def _trial(trial: Trial, sweep: Sweep) -> dict[str, Any]:
    summary = summary_of(trial.decisions)
    steps = next((line["value"] for line in summary["arithmetic"] if line["name"] == "optimizer steps"), None)
    model, data = trial.settings.model_place, trial.settings.data_place
    return {
        "number": trial.number,
        "parameters": trial.varied,
        "model": model,
        "data": data,
        "steps": steps if isinstance(steps, int) else None,
        **summary["estimate"],
        "memory_bytes": summary["memory"]["needed_bytes"] if summary["memory"] else None,
        "adds": _adds(sweep, trial),
        "summary": summary,
        "settings": {name: group.short() for name, group in trial.later.items()},
    }


def _adds(sweep: Sweep, trial: Trial) -> str:
    """Say what a trial needs besides its training, if no earlier one needs it."""
    earlier = [one.settings for one in sweep.trials[: trial.number]]
    new_model = all(one.model_place != trial.settings.model_place for one in earlier)
    new_data = all(one.data_place != trial.settings.data_place for one in earlier)
    return " and ".join([*(["a model"] if new_model else []), *(["prepared data"] if new_data else [])])


def _requests(tasks: list[dict[str, Any]], sweep: Sweep) -> list[dict[str, Any]]:
    """Return the requests of the tasks with what is enough for every trial."""
    groups = {"import_model": "import", "prepare_data": "prepare", "finetune": "finetune", "evaluate": "evaluate"}
    told = []
    for task in tasks:
        if not (group := groups.get(task["task"])):
            told.append(task)
            continue
        hardware = sweep.hardware[group]
        what = {"finetune": f"{_count(len(sweep.trials), 'trial')}: {_alike(sweep)}, measured on the validation rows",
                "evaluate": "the best trial: merged, compared with the base on the test rows"}  # fmt: skip
        told.append({**task, "cpu": hardware.cpu, "memory": hardware.memory,
                     "what": what.get(task["task"], task["what"])})  # fmt: skip
    return told


def _total(trials: list[dict[str, Any]], parallelism: int) -> dict[str, Any]:
    total: dict[str, Any] = {"trainings": len(trials)}
    for name in ("steps", "tokens", "seconds", "cost"):
        values = [trial[name] for trial in trials]
        total[name] = sum(values) if all(value is not None for value in values) else None
    seconds = total["seconds"]
    total["wall_seconds"] = seconds / min(parallelism, len(trials)) if seconds is not None else None
    return total


def sweep_as_text(summary: dict[str, Any]) -> str:
    """Format the summary for a terminal."""
    sweep, total = summary["sweep"], summary["sweep"]["total"]
    count = len(sweep["trials"])
    lines = [f"plan of {sweep['name']}: {_count(count, 'trial')} of {summary['pipeline']}", ""]
    lines += [f"  {task['task']:<22} {task['what']}" for task in summary["tasks"]]
    lines += ["", *as_table(summary["tasks"]), "", *_table(sweep), ""]
    lines.append(_line("shared", f"{_shared(sweep)}, the base evaluated once, on the test rows"))
    lines.append(_selection(sweep))
    told = [_count(count, "training"), *([f"{total['steps']:,} optimizer steps"] if total["steps"] else [])]
    told += [f"about {total['tokens']:,} tokens"] if total["tokens"] else []
    told += [f"about {duration(total['seconds'])} of training"] if total["seconds"] else []
    told += [f"about {total['cost']:.3g}"] if total["cost"] else []
    lines.append(_line("cost", ", ".join(told)))
    if not total["seconds"]:
        lines.append(_line("", "time is unknown: set tokens_per_second, which the report of a training has"))
    lines.append(_line("at the same time", _count(sweep["parallelism"], "trial")))
    return "\n".join([*lines, *_sources(summary)])


def sampled_as_text(summary: dict[str, Any], search: str, total: int, note: str) -> str:
    """Format the summary of a search whose `total` trials are chosen one by one; it has those with the ends of ranges.

    `note` is a sentence about the search, or empty.
    """
    sweep, trials = summary["sweep"], summary["sweep"]["trials"]
    sizes = {"optimizer steps": [one["steps"] for one in trials], "tokens": [one["tokens"] for one in trials]}
    most = [f"{max(known) * total:,} {what}" for what, known in sizes.items() if None not in known]
    return "\n".join([
        f"sweep of {summary['pipeline']} by {search}: {_count(total, 'trial')}, chosen one by one",
        f"{_count(len(trials), 'trial')} with the ends of every range checked",
        *([note] if note else []),
        "",
        _line("for those", _shared(sweep)),
        _selection(sweep),
        _line("cost", _count(total, "training") + (f", at most about {', '.join(most)}" if most else "")),
        *_sources(summary),
    ])  # fmt: skip


def _line(name: str, text: str) -> str:
    return f"  {name:<22} {text}"


def _shared(sweep: dict[str, Any]) -> str:
    return f"{_count(sweep['models'], 'model')} imported and {_count(sweep['preparations'], 'preparation')} of the data"


def _selection(sweep: dict[str, Any]) -> str:
    return _line("selection", f"{sweep['metric']} on the validation rows; of equal trials the cheaper one")


def _sources(summary: dict[str, Any]) -> list[str]:
    """Return the lines of the sources, of the tracking and of the warnings."""
    return [
        *(_line(item["what"], f"{item['uri']}  {item['digest'][:12]}") for item in summary["sources"]),
        _line("tracking", summary["tracking"]),
        *(f"WARNING {warning}" for warning in summary["warnings"]),
    ]


def _table(sweep: dict[str, Any]) -> list[str]:
    """Return one line for each trial: its parameters, its size, and what it adds to what is shared."""
    names = sweep["varied"]
    rows = [["trial", *names, "steps", "tokens", "adds"]]
    for trial in sweep["trials"]:
        size = [f"{trial[name]:,}" if trial[name] is not None else UNKNOWN for name in ("steps", "tokens")]
        values = [as_cell(trial["parameters"][name]) for name in names]
        rows.append([str(trial["number"]), *values, *size, trial["adds"] or "–"])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in rows]  # fmt: skip
    return lines if len(lines) <= 66 else [*lines[:61], f"  … {len(lines) - 61} more, in the report"]


def _alike(sweep: Sweep) -> str:
    """Say how the trials train, without what differs between them: that is in the table."""
    told = [next(task["what"] for task in summary_of(one.decisions)["tasks"] if task["task"] == "finetune")
            for one in sweep.trials]  # fmt: skip
    parts = [text.split(", ") for text in told]
    return ", ".join(part for part in parts[0] if all(part in other for other in parts))


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' if count != 1 else ''}"
