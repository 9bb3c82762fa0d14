"""The columns of the shards: those of the input as they were given, and those of the answers.

The user's own columns have the type of all their values: bool, int, float (also where whole numbers are among them that
a float holds exactly) or text. Values of several types, lists and objects are written as JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from steps.tasks.rules.json_text import as_json, from_json
from steps.tasks.rules.messages import MESSAGES

if TYPE_CHECKING:
    from steps.generate.rows import InputRow
    from steps.generate.survey import Survey

JSON_TEXT = "json"
LONG = "long"  # whole numbers, some of which no float holds
TYPES = {"bool": pa.bool_(), "int": pa.int64(), LONG: pa.int64(), "float": pa.float64(), "text": pa.string(),
         JSON_TEXT: pa.string()}  # fmt: skip
LARGEST = 2**63
LARGEST_EXACT = 2**53  # up to it, a float holds every whole number

ANSWERS = [
    pa.field("row", pa.int64(), nullable=False),
    pa.field("sample", pa.int32(), nullable=False),
    pa.field("prompt_text", pa.string()),
    pa.field("generations", pa.string(), nullable=False),
    pa.field("finish_reason", pa.string(), nullable=False),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("completion_tokens", pa.int64()),
    pa.field("truncated", pa.bool_()),
]
OF_TOKENS = [pa.field("token_ids", pa.list_(pa.int64())), pa.field("logprobs", pa.list_(pa.float64()))]


class Columns:
    """Makes tables of rows and their answers; `token_facts` adds the tokens and their log-probabilities."""

    def __init__(self, seen: Survey, token_facts: bool):
        self._whole = seen.whole
        self._token_facts = token_facts
        given = [pa.field("id", pa.string())]
        given += [pa.field("prompt", pa.string())] if seen.texts else []
        given += [pa.field("messages", MESSAGES)] if seen.conversations else []
        given += [pa.field("tools", pa.string())] if seen.tools else []
        given += [pa.field("reference", pa.string())]
        made = [*ANSWERS, *(OF_TOKENS if token_facts else [])]
        taken = {one.name for one in (*given, *made)}
        self._own: dict[str, tuple[str, str]] = {}  # the user's name → name here, kind
        for name, kind in seen.columns.items():
            here = name
            while here in taken:
                here = f"input_{here}"
            taken.add(here)
            self._own[name] = (here, kind)
        own = [pa.field(here, TYPES[kind]) for here, kind in self._own.values()]
        own += [pa.field("more", pa.string())] if seen.whole else []
        self.schema = pa.schema([*given, *own, *made])

    def table(self, pairs: Sequence[tuple[InputRow, Sequence[dict[str, Any]]]]) -> pa.Table:
        """Return a line for each answer; every row comes with all its answers, by their samples."""
        lines = [line for row, answers in pairs for line in self._lines(row, answers)]
        return pa.Table.from_pylist(lines, self.schema)

    def _lines(self, row: InputRow, answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        given = {
            "id": row.id,
            "prompt": row.text,
            "messages": None if row.messages is None else [_message(one) for one in row.messages],
            "tools": None if row.tools is None else as_json(row.tools),
            "reference": row.reference,
            **self._others(row),
        }
        shown = next((one["prompt_text"] for one in answers if one.get("prompt_text")), None)
        return [{**given, **_answer(one), "prompt_text": shown} for one in answers]

    def _others(self, row: InputRow) -> dict[str, Any]:
        if self._whole or not row.more:
            return {"more": row.more} if self._whole else {}
        values = from_json(row.more)
        return {here: _value(values.get(name), kind) for name, (here, kind) in self._own.items()}


def kind_of(value: Any) -> str:
    """Return the kind of one value; empty for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        if abs(value) <= LARGEST_EXACT:
            return "int"
        return LONG if -LARGEST <= value < LARGEST else JSON_TEXT
    return {float: "float", str: "text"}.get(type(value), JSON_TEXT)


def merged_kind(one: str | None, other: str) -> str:
    """Return the kind of a column with values of two kinds."""
    if not one or not other or one == other:
        return one or other
    return {frozenset(("int", "float")): "float", frozenset(("int", LONG)): LONG}.get(
        frozenset((one, other)), JSON_TEXT
    )


def _value(value: Any, kind: str) -> Any:
    return as_json(value) if kind == JSON_TEXT and value is not None else value


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message in its canonical form (`steps/tasks/rules/messages.py`)."""
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    return {
        "role": message["role"],
        "content": message.get("content"),
        "more": as_json(others) if others else None,
    }


def _answer(line: dict[str, Any]) -> dict[str, Any]:
    return {("generations" if name == "text" else name): value for name, value in line.items()}
