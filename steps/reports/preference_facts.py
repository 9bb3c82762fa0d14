"""Facts about preferences: rewards of better and worse answers, and the worst rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.reports.charts import reward_histogram
from steps.reports.formats import cut
from steps.reports.label_facts import ROWS_SHOWN


def preference_facts(preferences: dict[str, Any], predictions: Path) -> dict[str, Any]:
    """Return the facts for the template preferences.html from `preferences` in metrics.json."""
    told: dict[str, Any] = {"preferences": preferences, "preference_rows": [], "reward_chart": None}
    if not predictions.is_file():
        return told
    told["said"] = _said(predictions)
    return told | (_rated(predictions) if preferences["rated"] else _pairs(predictions))


def _pairs(file: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    margins = pq.read_table(file, columns=["margin"])["margin"].to_pylist()
    rows = _worst(file, margins)
    shown = [_shown(row, row["margin"], row["margin"] > 0, {"chosen": "better", "rejected": "worse"}) for row in rows]
    return {"reward_chart": reward_histogram({"margin": margins}), "preference_rows": shown}


def _rated(file: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["reward", "label"])
    pairs = list(zip(table["reward"].to_pylist(), table["label"].to_pylist(), strict=True))
    rows = _worst(file, [reward if good else -reward for reward, good in pairs])
    shown = [
        _shown(
            row, row["reward"], (row["reward"] > 0) == row["label"], {"completion": "good" if row["label"] else "bad"}
        )
        for row in rows
    ]
    of_kind = {kind: [reward for reward, good in pairs if good is (kind == "good")] for kind in ("good", "bad")}
    return {"reward_chart": reward_histogram(of_kind), "preference_rows": shown}


def _said(file: Path) -> list[dict[str, Any]]:
    """Read the prompts that both models answered."""
    import pyarrow.parquet as pq

    table = pq.read_table(file, columns=["row", "prompt", "base_answer", "tuned_answer"])
    rows = table.filter(table["tuned_answer"].is_valid()).to_pylist()
    return [{key: value if key == "row" else cut(value) for key, value in row.items()} for row in rows]


def _worst(file: Path, for_it: list[float]) -> list[dict[str, Any]]:
    """Read the rows with the lowest values."""
    import pyarrow.parquet as pq

    order = sorted(range(len(for_it)), key=lambda row: (for_it[row], row))[:ROWS_SHOWN]
    return pq.read_table(file).take(order).to_pylist()


def _shown(row: dict[str, Any], reward: float, right: bool, answers: dict[str, str]) -> dict[str, Any]:
    """Return one row for the page; `answers` maps the column of an answer to its name on the page."""
    told = [
        {"name": name, "text": cut(row[key]), "base": row[f"base_{key}_logp"], "tuned": row[f"tuned_{key}_logp"]}
        for key, name in answers.items()
    ]
    return {"row": row["row"], "right": right, "reward": reward, "prompt": cut(row["prompt"]), "answers": told}
