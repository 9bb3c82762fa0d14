"""Prompts for training with rewards: a prompt, an optional ground truth, and columns for the reward functions.

    {"problem": "2 + 2?", "solution": "4", "level": 1}
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "solution": "4"}

All other columns are kept for the reward functions, which take columns by name. The ground truth is passed to them as
the text `ground_truth`, and by the name of its own column as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa

from steps.params.chat_columns import USUAL_SYSTEM_PROMPT, GrpoColumns
from steps.tasks import Fault, OtherColumns, missing_columns, named_by
from steps.tasks.rules.answers import as_question, read_value, truth_faults, value_faults
from steps.tasks.rules.cells import Reader
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.counting import Judgement, Tally
from steps.tasks.rules.json_text import as_json
from steps.tasks.rules.messages import MESSAGES, order_faults, packed, remarks_on, unpacked
from steps.tasks.rules.rewarded import RESERVED, judged_row
from steps.tasks.rules.standard import from_text

Columns = GrpoColumns
KINDS = ("causal_lm",)
DOES = "answers the way that is rewarded"
EXAMPLE = '{"messages": [{"role": "user", "content": "Hello"}]}'
CONVERSATIONS = True
UNFIT: dict[str, str] = {}
TOGETHER = "prompt"  # what is learned from; other columns, such as an id, do not make a row another one

SCHEMA = pa.schema(
    [
        pa.field("prompt", MESSAGES, nullable=False),
        # The right answer; null if there is none.
        pa.field("ground_truth", pa.string()),
        # All columns but the prompt's, also that of the ground truth, as one JSON object; null if there are none.
        pa.field("more", pa.string()),
    ]
)
DEFAULT_PROMPT, OTHER_PROMPT = "problem", "prompt"
NAME_TRUTH = "set dataset_ground_truth_column to the column with it"
DEFAULT_TRUTH, OTHER_TRUTH = "solution", "ground_truth"
TO_TEXT = ("DATA-F1521", "ground truths converted to text")
NO_TRUTH = ("DATA-W1526", "no ground truth, although there is a column for it: the reward functions get none")
LEAK = ("DATA-W1523", "the prompt contains the ground truth, so that copying it earns the reward")
# After these words even a short ground truth is a leak.
ANNOUNCED = r"(?:answer|solution|result)(?:\s+is)?\W{0,4}|####\s*|\\boxed\{\s*"
LONG_ENOUGH = 4  # characters; shorter answers (B, yes) and numbers occur in many questions without being a leak


def prompt_column(columns: GrpoColumns) -> str:
    """Return the column with the question."""
    return columns.dataset_prompt_column


def truth_column(columns: GrpoColumns) -> str:
    """Return the column with the right answer."""
    return columns.dataset_ground_truth_column


def other_truths(columns: GrpoColumns) -> tuple[str, ...]:
    """Return the columns that are read for the right answer if its own is missing."""
    return (OTHER_TRUTH,) if columns.dataset_ground_truth_column == DEFAULT_TRUTH else ()


def nested_column(columns: GrpoColumns) -> str:
    """Return the column with an object whose keys rewards take as columns; empty if there is none."""
    return ""


def columns_of(columns: GrpoColumns) -> tuple[str, ...]:
    """Return the required column, and that of the ground truth if the parameter was set."""
    named = columns.dataset_ground_truth_column
    default = GrpoColumns.model_fields["dataset_ground_truth_column"].default
    return (columns.dataset_prompt_column,) if named == default else (columns.dataset_prompt_column, named)


def other_columns(columns: GrpoColumns) -> OtherColumns:
    """Use every column, because a reward function may need it; prompt replaces a missing problem.

    Likewise ground_truth replaces a missing solution, which is optional.
    """
    return OtherColumns(None, {DEFAULT_PROMPT: OTHER_PROMPT})


def cells(columns: GrpoColumns) -> dict[str, Reader]:
    """Return the columns that may hold messages as JSON text."""
    return dict.fromkeys((columns.dataset_prompt_column, OTHER_PROMPT), from_text)


def check_row(row: dict[str, Any], columns: GrpoColumns) -> Iterator[Fault]:
    """Yield the errors in one row."""
    key = _prompt_key(row, columns)
    if key not in row:
        yield from missing_columns(row, named_by(columns, [columns.dataset_prompt_column]))
        return
    prompt, _ = read_value(row, key, columns)
    truth = _truth_key(row, columns)
    faults = [*value_faults(prompt, key, columns), *truth_faults(row.get(truth), truth)]
    yield from faults
    if faults or type(prompt) is str:
        return
    yield from order_faults(prompt, key, columns)
    if prompt[-1]["role"] == "assistant":
        yield Fault("DATA-E1521", f"{key}[{len(prompt) - 1}].role", '"assistant"', "a question as the last message",
                    f"move the answer to the column {columns.dataset_ground_truth_column}")  # fmt: skip


def remarks(row: dict[str, Any], columns: GrpoColumns) -> Iterator[tuple[str, str]]:
    """Yield the repairs, and a warning for a prompt that contains its answer."""
    prompt, repairs = read_value(row, _prompt_key(row, columns), columns)
    truth_key = _truth_key(row, columns)
    truth = row.get(truth_key)
    yield from remarks_on(as_question(prompt), repairs, columns)
    if truth is not None and type(truth) is not str:
        yield TO_TEXT
    if truth_key in row and _as_text(truth) is None:
        yield NO_TRUTH
    if empty := [name for name, value in row.items() if value is None and name not in (truth_key, *RESERVED)]:
        yield "DATA-W1524", f"no value for the reward functions: null in {', '.join(empty)[:80]}"
    if (answer := _as_text(truth)) and _gives_away(as_question(prompt), answer):
        yield LEAK


def canonical(row: dict[str, Any], columns: GrpoColumns) -> dict[str, Any]:
    """Return the prompt as messages, the ground truth as text and all columns but the prompt's as JSON text.

    {"problem": "2 + 2?", "solution": 4, "level": 1}
    → {"prompt": [{"role": "user", "content": "2 + 2?", "more": None}], "ground_truth": "4",
       "more": '{"solution":4,"level":1}'}
    """
    key, truth = _prompt_key(row, columns), _truth_key(row, columns)
    prompt = as_question(read_value(row, key, columns)[0])
    more = {name: value for name, value in row.items() if name not in (key, *RESERVED)}
    return {
        "prompt": packed(with_system_prompt(prompt, columns), columns),
        "ground_truth": _as_text(row.get(truth)),
        "more": as_json(more, str) if more else None,
    }


def with_system_prompt(prompt: list[dict[str, Any]], columns: GrpoColumns) -> list[dict[str, Any]]:
    """Return a prompt with the instruction of system_prompt before it, unless it has a system message of its own.

    system_prompt=auto adds none: what it means depends on the rewards, and the plan has put that in its place.
    """
    text = columns.system_prompt
    if not text or text == USUAL_SYSTEM_PROMPT or any(message["role"] == "system" for message in prompt):
        return prompt
    return [{"role": "system", "content": text}, *prompt]


def training_row(row: dict[str, Any], columns: GrpoColumns) -> dict[str, Any]:
    """Return {prompt, ground_truth} and all other columns, as TRL passes them to reward functions."""
    return judged_row(row)


def question(row: dict[str, Any], columns: GrpoColumns) -> tuple[list[dict[str, Any]], str] | None:
    """Return the prompt and the ground truth; None if there is none."""
    return None if row["ground_truth"] is None else (unpacked(row["prompt"]), row["ground_truth"])


def counted(row: dict[str, Any], columns: GrpoColumns) -> tuple[str]:
    """Count the rows with and without a ground truth."""
    return ("without" if row["ground_truth"] is None else "with",)


def judge(tallies: dict[str, Tally], columns: GrpoColumns) -> Iterator[Judgement]:
    """Refuse files in which only some rows have a ground truth: the others would get no reward."""
    anywhere = any(tally.counts["with"] for tally in tallies.values())
    for split, tally in tallies.items():
        absent = tally.counts["without"]
        if absent and anywhere:
            fault = Fault("DATA-E1522", columns.dataset_ground_truth_column,
                          f"no value in {absent} of {tally.rows} rows", "a ground truth in every row, or in none",
                          "fill it in, or remove these rows")  # fmt: skip
            yield Judgement(split, fault, absent, tuple(tally.records["without"]))


def _prompt_key(row: dict[str, Any], columns: GrpoColumns) -> str:
    key = columns.dataset_prompt_column
    return OTHER_PROMPT if key == DEFAULT_PROMPT and key not in row and OTHER_PROMPT in row else key


def _truth_key(row: dict[str, Any], columns: GrpoColumns) -> str:
    key = columns.dataset_ground_truth_column
    return OTHER_TRUTH if key == DEFAULT_TRUTH and key not in row and OTHER_TRUTH in row else key


def _as_text(truth: Any) -> str | None:
    """Return a ground truth as text, values of other types as JSON; None if it is empty."""
    if truth is None or type(truth) is str:
        return None if truth is None or is_blank(truth) else truth
    return str(truth) if type(truth) is Decimal else as_json(truth, str)


def _gives_away(prompt: list[dict[str, Any]], answer: str) -> bool:
    text = "\n".join(message["content"] for message in prompt if message.get("content"))
    answer = answer.strip()
    if answer not in text:
        return False
    lead = "" if len(answer) >= LONG_ENOUGH and not answer.isdigit() else f"(?:{ANNOUNCED})"
    return re.search(rf"(?i){lead}(?<!\w){re.escape(answer)}(?!\w)", text) is not None
