"""Documents and their summaries.

{"document": "The council met on Monday and …", "summary": "The council met."}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from steps.errors import Problem
from steps.kinds.models.seq2seq_lm import MULTILINGUAL
from steps.kinds.models.unfit import NO_CHAT
from steps.kinds.recipe import Recipe
from steps.params.task_columns import USUAL_PREFIX, SummarizationColumns
from steps.tasks import Fault
from steps.tasks.rules.cells import text_faults
from steps.tasks.rules.characters import collapsed
from steps.tasks.rules.written import steering_problems

Columns = SummarizationColumns
KINDS = ("causal_lm", "seq2seq_lm")
DOES = "sums up documents"
EXAMPLE = '"The council met on Monday and …"'
CONVERSATIONS = False
UNFIT = dict.fromkeys(("chat_template", "add_template_tokens"), NO_CHAT)

SCHEMA = pa.schema(
    [pa.field("document", pa.string(), nullable=False), pa.field("summary", pa.string(), nullable=False)]
)

PREFIX = "summarize: "  # the prefix that T5 was trained with


def columns_of(columns: SummarizationColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.document_key, columns.summary_key)


def check_row(row: dict[str, Any], columns: SummarizationColumns) -> Iterator[Fault]:
    """Yield the errors in one row: a missing column, another type, empty text."""
    return text_faults(row, (columns.document_key, columns.summary_key), columns)


def remarks(row: dict[str, Any], columns: SummarizationColumns) -> Iterator[tuple[str, str]]:
    """Yield a warning for a summary that is not shorter than its document, in characters."""
    document, summary = row[columns.document_key], row[columns.summary_key]
    if len(summary) >= len(document):
        if summary == document or collapsed(summary) == collapsed(document):
            yield "DATA-W1302", "the summary equals the document"
        elif len(summary) > len(document):
            yield "DATA-W1301", "the summary is longer than the document; are the columns swapped?"


def canonical(row: dict[str, Any], columns: SummarizationColumns) -> dict[str, Any]:
    """Keep both texts: {"article": "…", "highlights": "…", "id": 7} → {"document": "…", "summary": "…"}."""
    return {"document": row[columns.document_key], "summary": row[columns.summary_key]}


def training_row(row: dict[str, Any], columns: SummarizationColumns) -> dict[str, Any]:
    """Name the parts as TRL does: {"prompt": "summarize: The council …\\n", "completion": "The council met."}."""
    before, after = prompt_form(columns)
    return {"prompt": before + row["document"] + after, "completion": row["summary"]}


def question(row: dict[str, Any], columns: SummarizationColumns) -> tuple[str, str]:
    """Return the prompt with the document, and the reference summary."""
    before, after = prompt_form(columns)
    return before + row["document"] + after, row["summary"]


def prompt_form(columns: SummarizationColumns) -> tuple[str, str]:
    """Return the prompt's text before and after the document."""
    before = PREFIX if columns.prompt_prefix == USUAL_PREFIX else columns.prompt_prefix
    return before, columns.after_text


def model_problems(p: Any, recipe: Recipe, config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what this model cannot be asked for: a metric of texts while it trains, a language that it is not told."""
    yield from steering_problems(p.metric_for_best_model, recipe)
    usual, kind = Columns.model_fields["summarization_lang"].default, config.get("model_type", "unknown")
    if p.summarization_lang != usual and kind not in MULTILINGUAL:
        yield Problem("PLAN-E0102", "summarization_lang", p.summarization_lang,
                      f"{usual!r} for a model of the type {kind}: only those of the types "
                      f"{' and '.join(sorted(MULTILINGUAL))} are told the language", "leave it out")  # fmt: skip
