"""The trials of a sweep as a table: for pandas, for a terminal and for a notebook."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from steps.params.sweep import STATES, as_cell

if TYPE_CHECKING:
    import pandas

ORDER = {state: place for place, state in enumerate(STATES)}
MOST_TOLD = 30  # trials in a text


def table_of(facts: dict[str, Any]) -> pandas.DataFrame:
    """Return one row for each trial, by its number."""
    import pandas

    rows = []
    for trial in facts["trials"]:
        row = {"trial": trial["number"], **trial["parameters"], "state": trial["state"], "score": trial.get("score")}
        row |= {f"validation {name}": value for name, value in (trial.get("metrics") or {}).items()}
        row |= {name: trial.get(name) for name in ("steps", "tokens", "seconds", "reason")}
        rows.append({**row, "best": bool(trial["best"])})
    columns = None if rows else ["state", "score"]
    return pandas.DataFrame(rows, columns=columns).set_index("trial") if rows else pandas.DataFrame(columns=columns)


def ranked(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials, the best first; those without a score last."""
    sign = -1 if facts.get("higher_is_better") else 1

    def place(trial: dict[str, Any]) -> tuple[int, float, bool, int]:
        score = trial.get("score")
        return (
            ORDER.get(trial["state"], len(ORDER)),
            sign * score if score is not None else 0.0,
            not trial["best"],
            trial["number"],
        )

    return sorted(facts["trials"], key=place)


def as_text(facts: dict[str, Any], head: str = "") -> str:
    """Format the table for a terminal."""
    if not facts["trials"]:
        return "\n".join([*([head] if head else []), "no trial has begun"])
    names = facts["varied"]
    rows = [["", "trial", *names, facts["metric"], "steps", "state"]]
    shown = ranked(facts)
    for trial in shown[:MOST_TOLD]:
        score = trial.get("score")
        rows.append([
            "*" if trial["best"] else "", str(trial["number"]),
            *(as_cell(trial["parameters"].get(name, "")) for name in names),
            "–" if score is None else f"{score:.6g}", _steps(trial), _state(trial),
        ])  # fmt: skip
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    left = len(shown) - MOST_TOLD
    more = [f"… {left} more trial{'s' if left > 1 else ''}"] if left > 0 else []
    return "\n".join([*([head] if head else []), *lines, *more, *told_final(facts)])


def told_final(facts: dict[str, Any]) -> list[str]:
    """Return the lines about the best trial on the test rows, if it was evaluated."""
    final = facts.get("final")
    if not final:
        return []
    registered = final["registered"]
    version = f"version {registered['name']} {registered['version']}" if registered else "version none registered"
    return [f"gate    {final['gate']['reason']}", version]


def as_html(facts: dict[str, Any], head: str = "") -> str:
    """Format the table for a notebook."""
    names = facts["varied"]
    titles = "".join(
        f"<th>{html.escape(str(name))}</th>" for name in ("trial", *names, facts["metric"], "steps", "state")
    )
    rows = []
    for trial in ranked(facts):
        score = trial.get("score")
        cells = [str(trial["number"]), *(as_cell(trial["parameters"].get(name, "")) for name in names),
                 "–" if score is None else f"{score:.6g}", _steps(trial), _state(trial)]  # fmt: skip
        style = ' style="font-weight:bold"' if trial["best"] else ""
        rows.append(f"<tr{style}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    told = "".join(f"<p>{html.escape(line)}</p>" for line in told_final(facts))
    return f"<p><b>{head}</b></p><table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>{told}"


def _steps(trial: dict[str, Any]) -> str:
    steps, most = trial.get("steps"), trial.get("max_steps")
    if steps is None:
        return ""
    return f"{steps:,}/{most:,}" if most and trial["state"] != "finished" else f"{steps:,}"


def _state(trial: dict[str, Any]) -> str:
    reason = trial.get("reason") or ""
    return f"{trial['state']}: {reason}" if reason else str(trial["state"])
