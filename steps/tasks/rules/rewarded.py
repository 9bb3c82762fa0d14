"""The canonical columns that rewards take, which every task with rewards has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steps.tasks.rules.json_text import from_json
from steps.tasks.rules.messages import unpacked

# The messages, the right answer, and all other columns as one JSON object; either of the last two may be null.
COLUMNS = ("prompt", "ground_truth", "more")
# Names of arguments that the trainer itself passes to reward functions.
RESERVED = ("prompt", "prompts", "completion", "completions", "completion_ids", "messages", "ground_truth",
            "trainer_state", "log_extra", "log_metric")  # fmt: skip


def judged_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return {prompt, ground_truth} and all other columns of a canonical row, as rewards take them by name."""
    more = from_json(row["more"]) if row["more"] else {}
    return {"prompt": unpacked(row["prompt"]), "ground_truth": row["ground_truth"], **more}


def as_columns(rows: Sequence[dict[str, Any]], names: Iterable[str]) -> dict[str, list[Any]]:
    """Return such rows by column; None where a row has no such column.

    `names` are the columns of the whole data set (`columns` in the facts of the data), because a batch may lack one.
    """
    return {name: [row.get(name) for row in rows] for name in names}
