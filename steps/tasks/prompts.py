"""Prompts to answer, without training: texts, or conversations.

    {"prompt": "2 + 2 =", "id": 7}
    {"messages": [{"role": "user", "content": "2 + 2?"}]}
    {"question": "2 + 2?", "answer": "4"}                                  with reference_key="answer"
    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}   "4" is the reference

A text is continued as it is; a conversation is rendered by the chat template. All other columns are kept for the
output. Rows may repeat, because each is answered by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pyarrow as pa

from steps.params.chat_columns import PromptColumns
from steps.params.group import default_in
from steps.tasks import Fault, OtherColumns, missing_columns, named_by
from steps.tasks.chat_completion import no_list
from steps.tasks.forms.converting import SYSTEM_READ, is_empty
from steps.tasks.forms.table import SYSTEM
from steps.tasks.rules.answers import as_question, stand_in, text_faults, truth_faults, value_faults
from steps.tasks.rules.cells import Reader
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.json_text import as_json, from_json
from steps.tasks.rules.messages import MESSAGES, order_faults, packed, remarks_on, unpacked
from steps.tasks.rules.standard import (
    UNLEARNED,
    from_cell_text,
    from_text,
    is_learned,
    is_message,
    standard,
    without_marks,
)
from steps.tasks.rules.tool_calls import read_tools, tools_faults

Columns = PromptColumns
KINDS = ("causal_lm", "seq2seq_lm")
DOES = "answers prompts"
EXAMPLE = '"Once upon a time"'
CONVERSATIONS = False
PLAIN_TEXTS = True
LEARNS = False
WRITER = "steps.prepare_data.write.asked"
UNFIT: dict[str, str] = {}

SCHEMA = pa.schema(
    [
        # The conversation without the answer; null for a text.
        pa.field("prompt", MESSAGES),
        # The text to continue; null for a conversation.
        pa.field("text", pa.string()),
        # Schemas of the functions that may be called, as one JSON list; null if there are none.
        pa.field("tools", pa.string()),
        # The right answer; null if there is none.
        pa.field("reference", pa.string()),
        pa.field("id", pa.string()),
        # All other columns, as one JSON object; null if there are none.
        pa.field("more", pa.string()),
    ]
)
SHAREGPT = "conversations"
# Columns of texts that are read if prompt_key has its default and is missing → the columns whose text is added below.
TEXTS = {"text": (), "question": ("context",), "instruction": ("input", "context")}
ID = "id"
TO_TEXT = ("DATA-F1541", "right answers and ids converted to text")
NO_REFERENCE = ("DATA-W1542", "no right answer, although there is a column for it: the row is answered and not scored")
OWN_ANSWER = ("DATA-W1543", "a conversation that ends with an answer beside a column with the right one: the column "
              "is the reference")  # fmt: skip
JOINED = ("DATA-F1544", "a text beside the question was added below it")
NOT_SAID = ("DATA-W1545", "the last answer is no text, or is marked as not learned: it is left out and is no reference")


@dataclass(frozen=True)
class PromptNames(OtherColumns):
    """The columns of a table of prompts: every column is used, and one of several holds the prompt."""

    sought: tuple[str, ...] = ()
    """Columns that can hold the prompt, the preferred one first."""

    def in_place(self, wanted: Mapping[str, str], present: Collection[str]) -> dict[str, str]:
        """Return `wanted` with the first of these columns that the file has."""
        first = next((name for name in self.sought if name in present), "")
        return {parameter: first if first and name in self.sought else name for parameter, name in wanted.items()}

    def missing(self, present: Iterable[str], wanted: Mapping[str, str]) -> Iterator[Fault]:
        """Yield a fault for every missing column."""
        yield from _told_of_others(missing_columns(present, wanted), self.sought)


def columns_of(columns: PromptColumns) -> tuple[str, ...]:
    """Return the required columns."""
    sought = _sought(columns)
    prompt = columns.prompt_key if columns.prompt_key in sought else sought[0]
    return (prompt, *([columns.reference_key] if columns.reference_key else []))


def other_columns(columns: PromptColumns) -> OtherColumns:
    """Use every column, because all of them go into the output."""
    return PromptNames(None, sought=_sought(columns))


def cells(columns: PromptColumns) -> dict[str, Reader]:
    """Return the columns that may hold JSON text."""
    return {**dict.fromkeys(set(_sought(columns)) - TEXTS.keys(), from_text), columns.tools_key: read_tools}


def check_row(row: dict[str, Any], columns: PromptColumns) -> Iterator[Fault]:
    """Yield the errors in one row."""
    absent = [name for name in columns_of(columns)[1:] if name not in row]
    yield from missing_columns(row, named_by(columns, absent))
    key = _key(row, columns)
    if key not in row:
        missing = missing_columns(row, named_by(columns, columns_of(columns)[:1]))
        yield from _told_of_others(missing, _sought(columns))
        return
    yield from truth_faults(row.get(columns.reference_key), columns.reference_key)
    prompt, _ = _read(row, key, columns)
    if type(prompt) is not list and key in (columns.messages_key, SHAREGPT):
        yield from no_list(row, key, prompt, columns)
        return
    faults = list(value_faults(prompt, key, columns))
    for name in [*_beside(row, key), *_system(row)]:
        faults += text_faults(row[name], name)
    yield from faults
    if faults or type(prompt) is str:
        return
    yield from order_faults(prompt, key, columns)
    if all(message["role"] in ("system", "assistant") for message in _asked(prompt)):
        roles = ", ".join(message["role"] for message in prompt)
        yield Fault("DATA-E1541", key, f"roles {roles[:60]}", "a question of the user to answer",
                    "add it, or remove the row")  # fmt: skip
    if (tools := read_tools(row.get(columns.tools_key))) is not None:
        yield from tools_faults(tools, columns.tools_key)


def remarks(row: dict[str, Any], columns: PromptColumns) -> Iterator[tuple[str, str]]:
    """Yield the repairs, and a warning for a right answer that is missing or is there twice."""
    key = _key(row, columns)
    prompt, repairs = _read(row, key, columns)
    yield from remarks_on(as_question(prompt), [note for note in repairs if note != UNLEARNED], columns)
    if _beside(row, key):
        yield JOINED
    if _system(row):
        yield SYSTEM_READ
    given = [row.get(columns.reference_key), row.get(ID)]
    if any(value is not None and type(value) is not str for value in given):
        yield TO_TEXT
    if type(prompt) is list and len(_asked(prompt)) < len(prompt):
        if columns.reference_key:
            yield OWN_ANSWER
        elif _said(prompt) is None:
            yield NOT_SAID
    if columns.reference_key and _as_text(row[columns.reference_key]) is None:
        yield NO_REFERENCE


def canonical(row: dict[str, Any], columns: PromptColumns) -> dict[str, Any]:
    """Return the prompt as text or messages, the right answer and the id as text, other columns as JSON text.

    {"prompt": "2 + 2 =", "id": 7, "level": 1}
    → {"prompt": None, "text": "2 + 2 =", "tools": None, "reference": None, "id": "7", "more": '{"level":1}'}
    """
    key = _key(row, columns)
    prompt, _ = _read(row, key, columns)
    below, system = _beside(row, key), _system(row)
    reference = _as_text(row[columns.reference_key]) if columns.reference_key else None
    if type(prompt) is list:
        reference = reference if columns.reference_key else _said(prompt)
        prompt = without_marks(_asked(prompt))
    else:
        prompt = "\n".join([prompt, *(row[name] for name in below)])
    if system:
        prompt = _with_system(prompt, row[system[0]])
    is_talk = type(prompt) is list
    tools = read_tools(row.get(columns.tools_key)) if is_talk else None
    used = {key, columns.reference_key, ID, *below, *system, *([columns.tools_key] if is_talk else [])}
    more = {name: value for name, value in row.items() if name not in used}
    return {
        "prompt": packed(prompt, columns) if is_talk else None,
        "text": None if is_talk else prompt,
        "tools": None if tools is None else as_json(tools),
        "reference": reference,
        "id": _as_text(row.get(ID)),
        "more": as_json(more, str) if more else None,
    }


def training_row(row: dict[str, Any], columns: PromptColumns) -> dict[str, Any]:
    """Return {messages}, with {tools} if there are any, or {text}; nothing is learned from either."""
    if row["prompt"] is None:
        return {"text": row["text"]}
    return {"messages": unpacked(row["prompt"]), **({"tools": from_json(row["tools"])} if row["tools"] else {})}


def question(row: dict[str, Any], columns: PromptColumns) -> tuple[str | list[dict[str, Any]], str] | None:
    """Return the prompt and the right answer; None if there is none."""
    if row["reference"] is None:
        return None
    return row["text"] if row["prompt"] is None else unpacked(row["prompt"]), row["reference"]


def _sought(columns: PromptColumns) -> tuple[str, ...]:
    """Return the columns that can hold the prompt, the preferred one first; those that are named exclude others."""
    keys = ("messages_key", "prompt_key")
    named = [getattr(columns, key) for key in keys if getattr(columns, key) != default_in(type(columns), key)]
    usual = (columns.messages_key, SHAREGPT, columns.prompt_key, stand_in(columns.prompt_key), *TEXTS)
    return tuple(named) or usual


def _key(row: Mapping[str, Any], columns: PromptColumns) -> str:
    """Return the column with the prompt: the first that has a value, else the first that is there."""
    sought = _sought(columns)
    present = [name for name in sought if name in row]
    filled = next((name for name in present if row[name] is not None), "")
    return filled or next(iter(present), sought[0])


def _read(row: Mapping[str, Any], key: str, columns: PromptColumns) -> tuple[Any, list[tuple[str, str]]]:
    """Return a text, or standard messages and the repairs made in them; any other value unchanged."""
    value = from_text(row.get(key))
    if is_message(one := from_cell_text(value)):
        value = [one]
    return standard(value, columns) if type(value) is list else (value, [])


def _beside(row: Mapping[str, Any], key: str) -> list[str]:
    """Return the columns with a text that belongs to the question in column `key`."""
    if type(row[key]) is not str:
        return []
    return [name for name in TEXTS.get(key, ()) if not is_empty(row.get(name))]


def _system(row: Mapping[str, Any]) -> list[str]:
    """Return the column with the text of a system message; empty if there is none."""
    return [name for name in SYSTEM if not is_empty(row.get(name))][:1]


def _with_system(prompt: Any, text: str) -> list[dict[str, Any]]:
    """Put a system message before a prompt that has none; a text becomes a conversation."""
    talk: list[dict[str, Any]] = as_question(prompt)
    return talk if talk[0]["role"] == "system" else [{"role": "system", "content": text}, *talk]


def _asked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages without an answer at their end."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _said(messages: list[dict[str, Any]]) -> str | None:
    """Return the text of an answer at the end of standard messages; None if there is none, or none to compare with."""
    last = messages[-1]
    content = last.get("content")
    fits = last["role"] == "assistant" and type(content) is str and not is_blank(content) and is_learned(last)
    return str(content) if fits else None


def _as_text(value: Any) -> str | None:
    """Return a value as text, of other types as JSON; None if it is empty."""
    if value is None or type(value) is str:
        return None if value is None or is_blank(value) else value
    return str(value) if type(value) is Decimal else as_json(value, str)


def _told_of_others(faults: Iterable[Fault], sought: tuple[str, ...]) -> Iterator[Fault]:
    others = f", or one of {', '.join(sought)}" if len(sought) > 1 else ""
    for fault in faults:
        yield replace(fault, expected=f"{fault.expected}{others}") if fault.column in sought else fault
