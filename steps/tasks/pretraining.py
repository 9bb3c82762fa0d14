"""Plain texts for continued pretraining on a language or a domain.

{"text": "Once upon a time …"}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from steps.errors import Problem
from steps.kinds.models.unfit import NO_CHAT
from steps.kinds.recipe import Recipe
from steps.params.task_columns import PretrainingColumns
from steps.tasks import Fault
from steps.tasks.rules.cells import text_faults

Columns = PretrainingColumns
KINDS = ("causal_lm", "masked_lm")
DOES = "continues texts"
EXAMPLE = '"Once upon a time"'
CONVERSATIONS = False
PLAIN_TEXTS = True
UNFIT = {
    **dict.fromkeys(("chat_template", "add_template_tokens"), NO_CHAT),
    **dict.fromkeys(
        ("train_on_completions_only", "response_template", "instruction_template", "comma_separated_template"),
        "the whole text is learned",
    ),
    "evaluation_max_new_tokens": "nothing is generated",
    "evaluation_engine": "nothing is generated",
}

SCHEMA = pa.schema([pa.field("text", pa.string(), nullable=False)])


def columns_of(columns: PretrainingColumns) -> tuple[str, ...]:
    """Return the required column."""
    return (columns.text_key,)


def check_row(row: dict[str, Any], columns: PretrainingColumns) -> Iterator[Fault]:
    """Yield the errors in one row: a missing column, another type, empty text."""
    return text_faults(row, (columns.text_key,), columns)


def remarks(row: dict[str, Any], columns: PretrainingColumns) -> Iterator[tuple[str, str]]:
    """Yield nothing: there are no remarks on a valid text."""
    return iter(())


def canonical(row: dict[str, Any], columns: PretrainingColumns) -> dict[str, Any]:
    """Keep the text: {"body": "Once …", "id": 7} → {"text": "Once …"} with text_key="body"."""
    return {"text": row[columns.text_key]}


def training_row(row: dict[str, Any], columns: PretrainingColumns) -> dict[str, Any]:
    """Return the text in the column that TRL expects."""
    return {"text": row["text"]}


def question(row: dict[str, Any], columns: PretrainingColumns) -> None:
    """Return None: the whole text is a training target."""
    return


def model_problems(p: Any, recipe: Recipe, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what means nothing where each next token is learned."""
    if not recipe.kind.goes_on:
        return
    usual = Columns.model_fields["mlm_probability"].default
    changed = {"mlm_probability": p.mlm_probability != usual, "gate_metric": p.gate_metric == "masked_accuracy"}
    for name in (name for name, value in changed.items() if value):
        yield Problem("PLAN-E0310", name, str(getattr(p, name)), "nothing: each next token is learned, "
                      "nothing is hidden", "leave it out, or set pretraining_objective=masked")  # fmt: skip
