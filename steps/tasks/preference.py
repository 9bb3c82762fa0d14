"""Pairs of a better and a worse answer to the same prompt.

    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}                                            texts
    {"prompt": [{"role": "user", …}], "chosen": [{"role": "assistant", …}], "rejected": […]}        messages
    {"chosen": [user, assistant], "rejected": [user, assistant]}              the prompt is their common start

The columns may also be named prompt_messages, chosen_messages and rejected_messages. A text beside messages becomes a
separate message.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import pyarrow as pa

from steps.params.chat_columns import PreferenceColumns
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
from steps.tasks.rules.characters import collapsed, is_blank
from steps.tasks.rules.messages import MESSAGES, packed, remarks_on, unpacked
from steps.tasks.rules.standard import from_text

Columns = PreferenceColumns
KINDS = ("causal_lm",)
DOES = "answers the way that people prefer"
EXAMPLE = '{"messages": [{"role": "user", "content": "Hello"}]}'
CONVERSATIONS = False
UNFIT: dict[str, str] = {}

PARTS = ("prompt", "chosen", "rejected")
# Texts or messages: a row has either the first three or the last three.
SCHEMA = pa.schema(
    [pa.field(f"{name}_text", pa.string()) for name in PARTS] + [pa.field(name, MESSAGES) for name in PARTS]
)
NO_PARTS = dict.fromkeys(SCHEMA.names)
SPACES_ONLY = ("DATA-W1507", "chosen and rejected differ in white space only: nothing else is learned from them")
NOT_REPEATED = ("DATA-F1502", "answers that repeat the prompt: the repetition was removed")
SHARED_START = ("DATA-F1503", "prompts taken from the common start of both answers")

Parts = tuple[Any, Any, Any]


def columns_of(columns: PreferenceColumns) -> tuple[str, ...]:
    """Return the required columns."""
    return (columns.chosen_key, columns.rejected_key)


def other_columns(columns: PreferenceColumns) -> OtherColumns:
    """Accept rows without a prompt, and columns with _messages in their names."""
    prompt = columns.prompt_key
    return OtherColumns((prompt, stand_in(prompt), *SYSTEM), {name: stand_in(name) for name in columns_of(columns)})


def cells(columns: PreferenceColumns) -> dict[str, Reader]:
    """Return the columns that may hold messages as JSON text."""
    return {column: from_text for name in _names(columns) for column in (name, stand_in(name))}


def check_row(row: dict[str, Any], columns: PreferenceColumns) -> Iterator[Fault]:
    """Yield the errors in one pair: its parts, their order, equal answers."""
    chosen_key, rejected_key = (key_in(row, name) for name in columns_of(columns))
    if absent := [key for key in (chosen_key, rejected_key) if key not in row]:
        yield from missing_columns(row, named_by(columns, absent))
        return
    values = [read_value(row, name, columns)[0] for name in _names(columns)]
    keys = [key_in(row, name) for name in _names(columns)]
    faults = [
        fault
        for value, key in zip(values, keys, strict=True)
        if key in row and not (key == keys[0] and value is None)
        for fault in value_faults(value, key, columns)
    ]
    if faults:
        yield from faults
        return
    (prompt, chosen, rejected), repairs = _split(*values)
    if values[1] == values[2] or chosen == rejected:
        yield Fault("DATA-E1501", rejected_key, as_found(_words(rejected or values[2])),
                    "an answer that differs from chosen",
                    "correct the answer, or remove the row: equal answers give no training signal")  # fmt: skip
    elif not prompt:
        found = "no prompt, and answers that start differently"
        yield Fault("DATA-E1503", keys[0], found, "a prompt, or answers that both start with it",
                    "add the prompt, or set prompt_key")  # fmt: skip
    elif type(prompt) is list:
        for answer, key in ((chosen, chosen_key), (rejected, rejected_key)):
            yield from answer_faults(answer, key)
            own = type(values[0]) is list and SHARED_START not in repairs and NOT_REPEATED not in repairs
            yield from joint_faults(prompt, keys[0], answer, key, columns, own)
    else:
        for answer, key in ((chosen, chosen_key), (rejected, rejected_key)):
            if is_blank(answer):
                yield Fault("DATA-E1504", key, as_found(answer), "an answer after the common start",
                            "add the answer, or remove the row")  # fmt: skip


def remarks(row: dict[str, Any], columns: PreferenceColumns) -> Iterator[tuple[str, str]]:
    """Yield the repairs, and a warning for a prompt and an answer without a space between them."""
    (prompt, chosen, rejected), repairs = _parts(row, columns)
    if _spaced(chosen) == _spaced(rejected):
        yield SPACES_ONLY
    if type(prompt) is str:
        if runs_together(prompt, chosen) or runs_together(prompt, rejected):
            yield SEAM
        yield from repairs
        return
    yield from dict.fromkeys(
        [*repairs, *remarks_on(prompt + chosen, [], columns), *remarks_on(prompt + rejected, [], columns)]
    )


def canonical(row: dict[str, Any], columns: PreferenceColumns) -> dict[str, Any]:
    """Separate the prompt from the answers, as texts or as messages.

    {"chosen": [user, assistant a], "rejected": [user, assistant b]}
    → {"prompt": [user], "chosen": [assistant a], "rejected": [assistant b], "prompt_text": None, …}
    """
    parts = _parts(row, columns)[0]
    if type(parts[0]) is str:
        return {**NO_PARTS, **{f"{name}_text": text for name, text in zip(PARTS, parts, strict=True)}}
    return {**NO_PARTS, **{name: packed(part, columns) for name, part in zip(PARTS, parts, strict=True)}}


def training_row(row: dict[str, Any], columns: PreferenceColumns) -> dict[str, Any]:
    """Return {prompt, chosen, rejected} as TRL expects them: all texts, or all messages."""
    if row["prompt"] is None:
        return {name: row[f"{name}_text"] for name in PARTS}
    return {name: unpacked(row[name]) for name in PARTS}


def question(row: dict[str, Any], columns: PreferenceColumns) -> tuple[Any, str] | None:
    """Return the prompt and the last text of the chosen answer; None if it has none."""
    if row["prompt"] is None:
        return row["prompt_text"], row["chosen_text"]
    answer = row["chosen"][-1]["content"]
    return (unpacked(row["prompt"] + row["chosen"][:-1]), answer) if answer else None


def _names(columns: PreferenceColumns) -> tuple[str, str, str]:
    return columns.prompt_key, columns.chosen_key, columns.rejected_key


def _parts(row: dict[str, Any], columns: PreferenceColumns) -> tuple[Parts, list[tuple[str, str]]]:
    """Return prompt, chosen and rejected of a valid row, and the repairs."""
    read = [read_value(row, name, columns) for name in _names(columns)]
    parts, repairs = _split(*(value for value, _ in read))
    return parts, [*dict.fromkeys(note for _, notes in read for note in notes), *repairs]


def _split(prompt: Any, chosen: Any, rejected: Any) -> tuple[Parts, list[tuple[str, str]]]:
    """Separate the prompt from the answers, and convert all three to texts or all three to messages.

    Without a prompt, the common start of both answers is the prompt, as in TRL 1.16 (`extract_prompt`). If both answers
    repeat a given prompt, the repetition is removed.
    """
    repairs = []
    kinds = {type(value) for value in (prompt, chosen, rejected) if value is not None}
    if kinds == {str, list}:
        repairs.append(TEXT_TO_MESSAGE)
        prompt = as_question(prompt)
        chosen, rejected = as_answer(chosen), as_answer(rejected)
    start = 0 if prompt and type(chosen) is str else _shared_start(chosen, rejected)
    if not prompt or (TEXT_TO_MESSAGE in repairs and prompt[0] in chosen[1:start]):
        return (chosen[:start], chosen[start:], rejected[start:]), [*repairs, SHARED_START]
    if type(prompt) is list and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        return (prompt, chosen[len(prompt) :], rejected[len(prompt) :]), [*repairs, NOT_REPEATED]
    return (prompt, chosen, rejected), repairs


def _shared_start(chosen: Any, rejected: Any) -> int:
    """Return the length of the answers' common start, in characters or messages."""
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    return start - 1 if start and chosen[start - 1] == " " else start  # a space belongs to the answer's first word


def _spaced(answer: Any) -> Any:
    """Return an answer with single spaces, as text or as messages."""
    if type(answer) is str:
        return " ".join(collapsed(answer))
    if type(answer) is list:
        return [{**message, "content": _spaced(message.get("content"))} for message in answer]
    return answer


def _words(answer: Any) -> Any:
    return answer[-1].get("content") if type(answer) is list and answer else answer
