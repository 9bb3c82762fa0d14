"""Questions whose answers are rewarded: a prompt, the right answer where there is one, and what reward functions need.

    {"problem": "2 + 2?", "solution": "4", "level": 1}
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "solution": "4"}

Every further column is kept for the reward functions, which take columns by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from steps.params.chat_columns import GrpoColumns
from steps.tasks import Fault, OtherColumns, missing_columns, named_by
from steps.tasks.answers import as_question, read_value, value_faults
from steps.tasks.counting import Judgement, Tally
from steps.tasks.messages import MESSAGES, order_faults, packed, remarks_on, unpacked

Columns = GrpoColumns
HEAD = "causal_lm"

SCHEMA = pa.schema(
    [
        pa.field("prompt", MESSAGES, nullable=False),
        # What the right answer is; null where there is none.
        pa.field("ground_truth", pa.string()),
        # Every further column, as one JSON object; null when there are none.
        pa.field("more", pa.string()),
    ]
)
DEFAULT_PROMPT, OTHER_PROMPT = "problem", "prompt"
# Names that the trainer gives to reward functions itself.
RESERVED = ("prompt", "prompts", "completion", "completions", "completion_ids", "messages", "ground_truth",
            "trainer_state", "log_extra", "log_metric")  # fmt: skip
TO_TEXT = ("DATA-F1521", "ground truths that are no text written as text")
LEAK = ("DATA-W1523", "the prompt already holds the right answer, which earns the reward by copying")
# What makes even a short ground truth a leak when it follows.
ANNOUNCED = r"(?:answer|solution|result)(?:\s+is)?\W{0,4}|####\s*|\\boxed\{\s*"
LONG_ENOUGH = 4  # characters; shorter answers (B, yes) and numbers stand in many questions and give nothing away


def columns_of(columns: GrpoColumns) -> tuple[str, ...]:
    """Name the required column, and the ground truth's when it was named."""
    named = columns.dataset_ground_truth_column
    default = GrpoColumns.model_fields["dataset_ground_truth_column"].default
    return (columns.dataset_prompt_column,) if named == default else (columns.dataset_prompt_column, named)


def other_columns(columns: GrpoColumns) -> OtherColumns:
    """Every column may be what a reward function needs; prompt stands in for problem."""
    return OtherColumns(None, {DEFAULT_PROMPT: OTHER_PROMPT})


def check_row(row: dict[str, Any], columns: GrpoColumns) -> Iterator[Fault]:
    """Yield what is wrong with one question."""
    key = _prompt_key(row, columns)
    if key not in row:
        yield from missing_columns(row, named_by(columns, [columns.dataset_prompt_column]))
        return
    prompt, _ = read_value(row, key, columns)
    faults = list(value_faults(prompt, key, columns))
    yield from faults
    if faults or type(prompt) is str:
        return
    yield from order_faults(prompt, key, columns)
    if prompt[-1]["role"] == "assistant":
        yield Fault("DATA-E1521", f"{key}[{len(prompt) - 1}].role", '"assistant"', "a question at the end",
                    f"move the answer to the column {columns.dataset_ground_truth_column}")  # fmt: skip


def remarks(row: dict[str, Any], columns: GrpoColumns) -> Iterator[tuple[str, str]]:
    """Yield what is mended, and a prompt that gives its answer away."""
    prompt, mended = read_value(row, _prompt_key(row, columns), columns)
    truth = row.get(columns.dataset_ground_truth_column)
    yield from remarks_on(as_question(prompt), mended, columns)
    if truth is not None and type(truth) is not str:
        yield TO_TEXT
    if (answer := _as_text(truth)) and _gives_away(as_question(prompt), answer):
        yield LEAK


def canonical(row: dict[str, Any], columns: GrpoColumns) -> dict[str, Any]:
    """Return the prompt as messages, the ground truth as text and every further column as JSON text.

    {"problem": "2 + 2?", "solution": 4, "level": 1}
    → {"prompt": [{"role": "user", "content": "2 + 2?", "more": None}], "ground_truth": "4", "more": '{"level":1}'}
    """
    key, truth = _prompt_key(row, columns), columns.dataset_ground_truth_column
    prompt = as_question(read_value(row, key, columns)[0])
    more = {name: value for name, value in row.items() if name not in (key, truth, *RESERVED)}
    return {
        "prompt": packed(prompt, columns),
        "ground_truth": _as_text(row.get(truth)),
        "more": orjson.dumps(more, default=str).decode() if more else None,
    }


def training_row(row: dict[str, Any], columns: GrpoColumns) -> dict[str, Any]:
    """Return {prompt, ground_truth} and every further column, as TRL hands them to reward functions."""
    more = orjson.loads(row["more"]) if row["more"] else {}
    return {"prompt": unpacked(row["prompt"]), "ground_truth": row["ground_truth"], **more}


def question(row: dict[str, Any], columns: GrpoColumns) -> tuple[list[dict[str, Any]], str] | None:
    """Return the prompt and the ground truth; None when there is none."""
    return None if row["ground_truth"] is None else (unpacked(row["prompt"]), row["ground_truth"])


def counted(row: dict[str, Any], columns: GrpoColumns) -> tuple[str]:
    """Count the rows with and without a ground truth."""
    return ("without" if row["ground_truth"] is None else "with",)


def judge(tallies: dict[str, Tally], columns: GrpoColumns) -> Iterator[Judgement]:
    """Refuse files in which only some of the rows have a ground truth: the others would earn nothing."""
    anywhere = any(tally.counts["with"] for tally in tallies.values())
    for split, tally in tallies.items():
        absent = tally.counts["without"]
        if absent and anywhere:
            fault = Fault("DATA-E1522", columns.dataset_ground_truth_column,
                          f"nothing in {absent} of {tally.rows} rows", "a ground truth in every row, or in none",
                          "fill it in, or remove these rows")  # fmt: skip
            yield Judgement(split, fault, absent, tuple(tally.records["without"]))


def _prompt_key(row: dict[str, Any], columns: GrpoColumns) -> str:
    key = columns.dataset_prompt_column
    return OTHER_PROMPT if key == DEFAULT_PROMPT and key not in row and OTHER_PROMPT in row else key


def _as_text(truth: Any) -> str | None:
    """Write a ground truth the way it stands in JSON; None for nothing."""
    if truth is None or type(truth) is str:
        return truth if truth and truth.strip() else None
    return orjson.dumps(truth, default=str).decode()


def _gives_away(prompt: list[dict[str, Any]], answer: str) -> bool:
    text = "\n".join(message["content"] for message in prompt if message.get("content"))
    answer = answer.strip()
    if answer not in text:
        return False
    lead = "" if len(answer) >= LONG_ENOUGH and not answer.isdigit() else f"(?:{ANNOUNCED})"
    return re.search(rf"(?i){lead}(?<!\w){re.escape(answer)}(?!\w)", text) is not None
