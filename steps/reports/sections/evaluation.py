"""The evaluation section: metrics of base and tuned model, outcomes of the rows, and sample rows."""

from __future__ import annotations

from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from steps.kinds import load
from steps.kinds.recipe import reports
from steps.params.metrics import direction_of, is_known
from steps.reports.facts import METRICS, PREDICTIONS, read
from steps.reports.formats import SHOWN, cut, number
from steps.reports.page import Section

READS = "evaluation"

METRICS_SHOWN = 5  # those stand in the part of the page that KFP shows beside another run's; the others are folded
ROWS_SHOWN = 10
WRONG_SHOWN = 6  # if there are right ones too
ALIKE = 0.5  # below this share of equal characters, differences are not marked: nearly everything differs

# (base right, tuned right) → outcome of the row, in the order of display.
OUTCOMES = {
    (True, False): "broken",
    (False, False): "still wrong",
    (False, True): "fixed",
    (True, True): "right in both",
}


def section(evaluation: Path) -> Section:
    """Read metrics.json and predictions.parquet of the artifact `evaluation`."""
    measured = read(evaluation / METRICS)
    if not measured:
        return Section("evaluation", "Evaluation", missing=f"The evaluation folder has no {METRICS}.")
    facts = {
        "rows": measured.get("rows"),
        "gate": measured.get("gate") or {},
        "reason": reason(measured.get("gate") or {}),
        "metrics": gate_first(metric_rows(measured.get("base") or {}, measured.get("tuned") or {}), measured),
        "first": METRICS_SHOWN,
        "base_is": measured.get("base_is", ""),
    }
    for key, name in reports().items():
        if key in measured:
            facts |= load(name)(measured[key], evaluation / PREDICTIONS)
            return Section("evaluation", "Evaluation", facts)
    if (evaluation / PREDICTIONS).is_file():
        facts |= _predictions(evaluation / PREDICTIONS)
    return Section("evaluation", "Evaluation", facts)


def reason(gate: dict[str, Any]) -> str:
    """Return the gate's reason without its first words, which the badge shows."""
    return (gate.get("reason") or "").removeprefix("Passed: ").removeprefix("Not passed: ")


def gate_first(rows: list[dict[str, Any]], measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Put the row of the gate's metric first; the others keep their order."""
    gate = (measured.get("gate") or {}).get("metric")
    return sorted(rows, key=lambda row: row["name"] != gate)


def metric_rows(base: dict[str, Any], tuned: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the metrics of both models with their difference and whether it is an improvement."""
    names = [*base, *(name for name in tuned if name not in base)]
    return [_metric_row(name, base.get(name), tuned.get(name)) for name in names]


def _metric_row(name: str, was: float | None, now: float | None) -> dict[str, Any]:
    higher = direction_of(name) if is_known(name) else None
    row = {"name": name, "higher": higher, "better": None, "change": number(None)}
    if was is None or now is None:
        return {**row, "base": number(was), "tuned": number(now)}
    change, like = now - was, max(abs(was), abs(now))
    better = None if not change or higher is None else (change > 0) == higher
    return {
        **row,
        "better": better,
        "base": number(was, like),
        "tuned": number(now, like),
        "change": _signed(change, like),
    }


def _signed(change: float, like: float) -> str:
    sign = "+" if change > 0 else "−" if change < 0 else "±"
    text = number(abs(change), like)
    too_small_to_show = change and not any(digit in text for digit in "123456789")
    return sign + (f"{abs(change):.1g}" if too_small_to_show else text)


def _predictions(file: Path) -> dict[str, Any]:
    """Count the outcomes of all rows; read the texts of the shown rows only."""
    import pyarrow.parquet as pq

    judged = pq.read_table(file, columns=["base_exact", "tuned_exact", "base_loss", "tuned_loss"]).to_pydict()
    exact = list(zip(judged["base_exact"], judged["tuned_exact"], strict=True))
    outcomes = [OUTCOMES.get(pair) for pair in exact]
    known = [outcome for outcome in outcomes if outcome]
    losses = [pair for pair in zip(judged["base_loss"], judged["tuned_loss"], strict=True) if None not in pair]
    shown = _choose(outcomes)
    table = pq.read_table(file, columns=["row", "prompt", "reference", "base", "tuned"]).take(shown)
    return {
        "outcomes": [
            {"name": name, "count": known.count(name), "share": 100 * known.count(name) / len(known)}
            for name in ("fixed", "right in both", "still wrong", "broken")
        ]
        if known
        else [],
        "judged": len(known),
        "closer": sum(now < was for was, now in losses),
        "with_loss": len(losses),
        "samples": [
            _sample(row, outcomes[place]) for place, row in zip(shown, table.to_pylist(), strict=True)
            if row["tuned"] is not None
        ],
    }  # fmt: skip


def _choose(outcomes: list[str | None]) -> list[int]:
    """Select row numbers: wrong rows first, then right ones, then those without a reference."""
    order = [*OUTCOMES.values(), None]
    ranked = sorted(range(len(outcomes)), key=lambda place: (order.index(outcomes[place]), place))
    wrong = [place for place in ranked if outcomes[place] in ("broken", "still wrong")]
    others = [place for place in ranked if outcomes[place] not in ("broken", "still wrong")]
    kept = wrong[: max(WRONG_SHOWN, ROWS_SHOWN - len(others))]
    return kept + others[: ROWS_SHOWN - len(kept)]


def _sample(row: dict[str, Any], outcome: str | None) -> dict[str, Any]:
    return {
        "row": row["row"],
        "outcome": outcome,
        "prompt": cut(row["prompt"] or ""),
        "reference": None if row["reference"] is None else cut(row["reference"]),
        "base": cut(row["base"] or ""),
        "tuned": cut(row["tuned"]),
        "difference": _difference(row["reference"], row["tuned"]) if outcome in ("broken", "still wrong") else None,
    }


def _difference(reference: str, answer: str) -> list[tuple[str, bool]] | None:
    """Split a wrong answer into pieces, True if not in the reference; None if the texts are long or too different."""
    if len(answer) > SHOWN or len(reference) > SHOWN:
        return None
    matcher = SequenceMatcher(None, reference, answer, autojunk=False)
    if matcher.ratio() < ALIKE:
        return None
    return [(answer[start:end], tag != "equal") for tag, _, _, start, end in matcher.get_opcodes() if end > start]
