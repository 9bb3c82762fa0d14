"""Single answers, each rated good or bad.

    {"prompt": "2 + 2?", "completion": "5", "label": false}                                         texts
    {"prompt": [{"role": "user", …}], "completion": [{"role": "assistant", …}], "label": true}      messages

The columns may also be named prompt_messages and completion_messages. A text beside messages becomes a separate
message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from steps.params.chat_columns import KtoColumns
from steps.tasks import Fault, OtherColumns, as_found, missing_columns, named_by
from steps.tasks.forms.table import SYSTEM
from steps.tasks.rules.answers import (
    SEAM,
    TEXT_TO_MESSAGE,
    answer_faults,
    as_answer,
    as_question,
    joint_faults,
    key_in,
    read_value,
    runs_together,
    stand_in,
    value_faults,
)
from steps.tasks.rules.cells import Reader
from steps.tasks.rules.counting import Judgement, Tally
from steps.tasks.rules.messages import MESSAGES, packed, remarks_on, unpacked
from steps.tasks.rules.standard import from_text

Columns = KtoColumns
KINDS = ("causal_lm",)
DOES = "answers the way that people prefer"
EXAMPLE = '{"messages": [{"role": "user", "content": "Hello"}]}'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}

PARTS = ("prompt", "completion")
# Texts or messages: a row has either the first two or the next two.
SCHEMA = pa.schema(
    [pa.field(f"{name}_text", pa.string()) for name in PARTS]
    + [pa.field(name, MESSAGES) for name in PARTS]
    + [pa.field("label", pa.bool_(), nullable=False)]
)
NUMBER_LABEL = ("DATA-F1511", "labels 1 and 0 read as true and false")
MOST_PER_ROW_OF_THE_OTHER = 20  # TRL weights the classes; beyond this ratio the rare class is noise


def columns_of(columns: KtoColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.prompt_key, columns.completion_key, columns.label_key)


def other_columns(columns: KtoColumns) -> OtherColumns:
    """Accept prompt and completion with _messages in their names."""
    return OtherColumns(SYSTEM, {name: stand_in(name) for name in (columns.prompt_key, columns.completion_key)})


def cells(columns: KtoColumns) -> dict[str, Reader]:
    """Return the columns that may hold messages as JSON text."""
    return {column: from_text for name in columns_of(columns)[:2] for column in (name, stand_in(name))}


def check_row(row: dict[str, Any], columns: KtoColumns) -> Iterator[Fault]:
    """Yield the errors in one rated answer: its parts, their order, its label."""
    keys = [key_in(row, name) for name in columns_of(columns)[:2]]
    if absent := [key for key in (*keys, columns.label_key) if key not in row]:
        yield from missing_columns(row, named_by(columns, absent))
        return
    label = row[columns.label_key]
    if _truth(label) is None:
        yield Fault("DATA-E1511", columns.label_key, as_found(label), "true or false (or 1 or 0)",
                    "write true for a good answer and false for a bad one, or remove the row")  # fmt: skip
    prompt, completion = (read_value(row, name, columns)[0] for name in columns_of(columns)[:2])
    faults = [*value_faults(prompt, keys[0], columns), *value_faults(completion, keys[1], columns)]
    yield from faults
    if not faults and list in (type(prompt), type(completion)):
        question, answer = as_question(prompt), as_answer(completion)
        yield from answer_faults(answer, keys[1])
        yield from joint_faults(question, keys[0], answer, keys[1], columns, own_columns=True)


def remarks(row: dict[str, Any], columns: KtoColumns) -> Iterator[tuple[str, str]]:
    """Yield the repairs, and a warning for a prompt and an answer without a space between them."""
    if type(row[columns.label_key]) is not bool and str(row[columns.label_key]) not in ("true", "false"):
        yield NUMBER_LABEL
    (prompt, completion), repairs = _parts(row, columns)
    if type(prompt) is str:
        if runs_together(prompt, completion):
            yield SEAM
    else:
        yield from remarks_on(prompt + completion, repairs, columns)


def canonical(row: dict[str, Any], columns: KtoColumns) -> dict[str, Any]:
    """Return prompt and completion as texts or as messages, and the label as a bool.

    {"prompt": "2 + 2?", "completion": "5", "label": 0}
    → {"prompt_text": "2 + 2?", "completion_text": "5", "prompt": None, "completion": None, "label": False}
    """
    (prompt, completion), _ = _parts(row, columns)
    label = _truth(row[columns.label_key])
    if type(prompt) is str:
        texts = {"prompt_text": prompt, "completion_text": completion, "prompt": None, "completion": None}
        return {**texts, "label": label}
    messages = {"prompt": packed(prompt, columns), "completion": packed(completion, columns)}
    return {"prompt_text": None, "completion_text": None, **messages, "label": label}


def training_row(row: dict[str, Any], columns: KtoColumns) -> dict[str, Any]:
    """Return {prompt, completion, label} as TRL expects them."""
    if row["prompt"] is None:
        return {**{name: row[f"{name}_text"] for name in PARTS}, "label": row["label"]}
    return {**{name: unpacked(row[name]) for name in PARTS}, "label": row["label"]}


def question(row: dict[str, Any], columns: KtoColumns) -> tuple[Any, str] | None:
    """Return the prompt and a good answer; None for a bad answer, which is not a reference."""
    if not row["label"]:
        return None
    if row["prompt"] is None:
        return row["prompt_text"], row["completion_text"]
    answer = row["completion"][-1]["content"]
    return (unpacked(row["prompt"] + row["completion"][:-1]), answer) if answer else None


def counted(row: dict[str, Any], columns: KtoColumns) -> tuple[bool]:
    """Count the labels."""
    return (row["label"],)


def judge(tallies: dict[str, Tally], columns: KtoColumns) -> Iterator[Judgement]:
    """Refuse training rows that are all good or all bad; warn if one of the two is rare."""
    tally = tallies.get("train")
    if tally is None or not tally.rows:
        return
    good, bad = tally.counts[True], tally.counts[False]
    if not (good and bad):
        only, absent = ("true", "false") if good else ("false", "true")
        fault = Fault("DATA-E1512", columns.label_key, f"only the label {only}", "good and bad answers",
                      f"add rows with the label {absent}")  # fmt: skip
        yield Judgement("train", fault, tally.rows, tuple(tally.records[bool(good)]))
    elif max(good, bad) > MOST_PER_ROW_OF_THE_OTHER * min(good, bad):
        rare = good < bad
        told = f"{good} good and {bad} bad answers: balance them, or weight them with desirable_weight"
        fault = Fault("DATA-W1513", columns.label_key, told, "", "")
        yield Judgement("train", fault, tally.counts[rare], tuple(tally.records[rare]))


def _truth(label: Any) -> bool | None:
    """Read true, false, 1 and 0, in JSON or as a csv cell; None for anything else."""
    if type(label) is str:
        return {"true": True, "false": False, "1": True, "0": False}.get(label)
    return bool(label) if type(label) in (bool, int, float) and label in (0, 1) else None


def _parts(row: dict[str, Any], columns: KtoColumns) -> tuple[tuple[Any, Any], list[tuple[str, str]]]:
    """Return prompt and completion of a valid row, both texts or both messages, and the repairs."""
    read = [read_value(row, name, columns) for name in columns_of(columns)[:2]]
    (prompt, first), (completion, second) = read
    repairs = list(dict.fromkeys(first + second))
    if type(prompt) is type(completion):
        return (prompt, completion), repairs
    return (as_question(prompt), as_answer(completion)), [*repairs, TEXT_TO_MESSAGE]
