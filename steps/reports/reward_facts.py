"""Facts about the rewards of base and tuned model, and the completions in which they differ most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.formats import cut, number

ROWS_SHOWN = 10
ANSWER = "answer"  # what a reward of the library logs as the answer that it found
LOGGED_SHOWN = 300  # characters of what a reward logged
MODELS = ("base", "tuned")


def reward_facts(rewards: dict[str, Any], predictions: Path) -> dict[str, Any]:
    """Return the facts for the template rewards.html from `rewards` in metrics.json."""
    told: dict[str, Any] = {"rewards": rewards, "reward_table": [_row(one) for one in rewards["rewards"]]}
    return told | (_completions(predictions, rewards) if predictions.is_file() else {})


def _row(reward: dict[str, Any]) -> dict[str, Any]:
    base, tuned = reward["base"], reward["tuned"]
    like = max((abs(value) for value in (base, tuned) if value is not None), default=None)
    return {**reward, "base": number(base, like), "tuned": number(tuned, like)}


def _completions(file: Path, rewards: dict[str, Any]) -> dict[str, Any]:
    import pyarrow.parquet as pq

    read = pq.read_table(file, columns=[f"{model}_reward" for model in MODELS]).to_pydict()
    pairs = list(zip(read["base_reward"], read["tuned_reward"], strict=True))
    changes = [None if None in pair else tuned - base for pair in pairs for base, tuned in [pair]]
    known = [change for change in changes if change is not None]
    counts = {
        "higher": sum(change > 0 for change in known),
        "equal": sum(change == 0 for change in known),
        "lower": sum(change < 0 for change in known),
    }
    # Rounded, because sums of the same rewards may differ in their last digit.
    order = sorted(range(len(changes)), key=lambda row: (-round(abs(changes[row] or 0), 9), row))[:ROWS_SHOWN]
    rows = pq.read_table(file).take(order).to_pylist()
    return {
        "reward_changes": [
            {"name": name, "count": count, "share": 100 * count / len(known)} for name, count in counts.items()
        ]
        if known
        else [],
        "reward_rows": [
            _shown(row, changes[place], rewards["rewards"]) for place, row in zip(order, rows, strict=True)
        ],
        "reward_rows_of": len(pairs),
    }


def _shown(row: dict[str, Any], change: float | None, rewards: list[dict[str, Any]]) -> dict[str, Any]:
    shorts = [reward["short"] for reward in rewards]
    return {
        "row": row["row"],
        "change": change,
        "prompt": cut(row["prompt"]),
        "truth": None if row["ground_truth"] is None else cut(row["ground_truth"]),
        "completions": [
            {
                "model": model,
                "text": cut(row[model]),
                "tokens": row[f"{model}_tokens"],
                "finished": row[f"{model}_finished"],
                "reward": row[f"{model}_reward"],
                "rewards": {short: row[f"{model}_rewards/{short}"] for short in shorts},
                "logged": logged(row, f"{model}_", shorts),
            }
            for model in MODELS
        ],
    }


def logged(row: dict[str, Any], before: str, rewards: list[str]) -> dict[str, str]:
    """Return what rewards logged of a completion, the answer that they found first; `before` precedes its columns.

    The answer of several rewards is told once, if they found the same.
    """
    starts = tuple(f"{before}{name}/" for name in rewards)
    found = {
        name.removeprefix(before): value if len(value) <= LOGGED_SHOWN else value[: LOGGED_SHOWN - 1] + "…"
        for name, value in row.items()
        if name.startswith(starts) and isinstance(value, str)
    }
    answers = {name: value for name, value in found.items() if name.partition("/")[2] == ANSWER}
    others = {name: value for name, value in found.items() if name not in answers}
    if len(set(answers.values())) == 1:
        answers = {ANSWER: next(iter(answers.values()))}
    return {**answers, **others}
