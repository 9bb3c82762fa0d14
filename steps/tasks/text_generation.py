"""Plain texts, or prompts with completions.

{"text": "Once upon a time …"}                                         whole texts
{"text": "Translate: chat", "ground_truth": "cat"}                     with ground_truth_key="ground_truth"
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from steps.params.data import TextColumns
from steps.tasks import Fault
from steps.tasks.rules.cells import text_faults

Columns = TextColumns
KINDS = ("causal_lm",)
DOES = "continues texts"
EXAMPLE = '"Once upon a time"'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}

SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False), pa.field("ground_truth", pa.string())])


def columns_of(columns: TextColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.text_key, columns.ground_truth_key) if columns.ground_truth_key else (columns.text_key,)


def check_row(row: dict[str, Any], columns: TextColumns) -> Iterator[Fault]:
    """Yield the errors in one row: a missing column, another type, empty text."""
    return text_faults(row, columns_of(columns), columns)


def remarks(row: dict[str, Any], columns: TextColumns) -> Iterator[tuple[str, str]]:
    """Yield a warning for a prompt and an answer without a space between them."""
    if columns.ground_truth_key:
        prompt, answer = row[columns.text_key] + columns.text_separator, row[columns.ground_truth_key]
        if not (prompt[-1].isspace() or answer[0].isspace()):
            yield ("DATA-W0601", "no space between the prompt and the text that follows: a token may span the "
                   "boundary; set text_separator")  # fmt: skip


def canonical(row: dict[str, Any], columns: TextColumns) -> dict[str, Any]:
    """Keep the text and its completion; the separator becomes part of the prompt.

    {"question": "1 + 1", "answer": "2"} → {"text": "1 + 1 = ", "ground_truth": "2"} with text_separator=" = "
    """
    if columns.ground_truth_key:
        return {
            "text": row[columns.text_key] + columns.text_separator,
            "ground_truth": row[columns.ground_truth_key],
        }
    return {"text": row[columns.text_key], "ground_truth": None}


def training_row(row: dict[str, Any], columns: TextColumns) -> dict[str, Any]:
    """Name the parts as TRL does: {text}, or {prompt, completion}."""
    if row["ground_truth"] is None:
        return {"text": row["text"]}
    return {"prompt": row["text"], "completion": row["ground_truth"]}


def question(row: dict[str, Any], columns: TextColumns) -> tuple[str, str] | None:
    """Return the prompt and its completion; None for whole texts."""
    return None if row["ground_truth"] is None else (row["text"], row["ground_truth"])
