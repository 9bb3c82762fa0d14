"""Conversations.

    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
    {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]}         ShareGPT
    {"messages": […], "tools": [{"type": "function", "function": {"name": "add", …}}]}

In csv and tsv files a cell holds the list as JSON text. Other keys of a message (tool_calls, tool_call_id, name, …)
are passed to the chat template unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from steps.params.chat_columns import ChatColumns, MessageRules
from steps.tasks import Fault, OtherColumns, as_found, kind_of, missing_columns, named_by
from steps.tasks.forms.table import FUNCTIONS, SYSTEM
from steps.tasks.rules.cells import Reader, read_cell
from steps.tasks.rules.json_text import as_json, from_json
from steps.tasks.rules.messages import (
    MESSAGES,
    UNANSWERED,
    conversation_faults,
    is_plain,
    packed,
    plain_packed,
    remarks_on,
    unlearned,
    unpacked,
)
from steps.tasks.rules.standard import standard
from steps.tasks.rules.tool_calls import read_tools, tools_faults

Columns = ChatColumns
KINDS = ("causal_lm",)
DOES = "answers conversations"
EXAMPLE = '{"messages": [{"role": "user", "content": "Hello"}]}'
CONVERSATIONS = True
UNFIT: dict[str, str] = {}
SHAREGPT_KEY = "conversations"
TOOLS_AS_TEXT = ("DATA-F0445", "function schemas read from JSON text")

SCHEMA = pa.schema(
    [
        pa.field("messages", MESSAGES, nullable=False),
        # Schemas of the functions that may be called, as one JSON list; null if there are none.
        pa.field("tools", pa.string()),
    ]
)


def columns_of(columns: ChatColumns) -> tuple[str, ...]:
    """Return the required column."""
    return (columns.messages_key,)


def other_columns(columns: ChatColumns) -> OtherColumns:
    """Accept ShareGPT's name for the messages, and optional tools and system texts."""
    return OtherColumns((columns.tools_key, FUNCTIONS, *SYSTEM), {columns.messages_key: SHAREGPT_KEY})


def cells(columns: ChatColumns) -> dict[str, Reader]:
    """Return the columns that may hold JSON text."""
    return {columns.messages_key: read_cell, SHAREGPT_KEY: read_cell, columns.tools_key: read_tools}


def check_row(row: dict[str, Any], columns: ChatColumns) -> Iterator[Fault]:
    """Yield the errors in one conversation: its type, its messages, their order, its tools."""
    messages = row.get(columns.messages_key)
    if type(messages) is list and is_plain(messages) and columns.tools_key not in row and not columns.strict:
        return
    key, messages = _messages_of(row, columns)
    if type(messages) is not list:
        yield from no_list(row, key, messages, columns)
        return
    yield from conversation_faults(standard(messages, columns)[0], key, columns)
    if (tools := read_tools(row.get(columns.tools_key))) is not None:
        yield from tools_faults(tools, columns.tools_key)


def remarks(row: dict[str, Any], columns: ChatColumns) -> Iterator[tuple[str, str]]:
    """Yield the repairs of a valid conversation, and a warning for a system message after the first message."""
    if type(tools := row.get(columns.tools_key)) is list and str in map(type, tools):
        yield TOOLS_AS_TEXT
    messages = row.get(columns.messages_key)
    if type(messages) is list and is_plain(messages):
        if messages[-1]["role"] != "assistant":
            yield UNANSWERED
        return
    messages, repairs = standard(_messages_of(row, columns)[1], columns)
    yield from remarks_on(messages, repairs, columns)
    if messages[-1]["role"] != "assistant":
        yield UNANSWERED


def canonical(row: dict[str, Any], columns: ChatColumns) -> dict[str, Any]:
    """Keep role and content of every message, its other keys as JSON text, and the tools as JSON text.

    {"id": 7, "messages": [{"role": "user", "content": "hi", "name": "Ann"}, …]}
    → {"messages": [{"role": "user", "content": "hi", "more": '{"name":"Ann"}'}, …], "tools": None}
    """
    tools = read_tools(row[columns.tools_key]) if columns.tools_key in row else None
    messages = row.get(columns.messages_key)
    if type(messages) is list and is_plain(messages):
        talk = plain_packed(messages)
    else:
        talk = packed(standard(_messages_of(row, columns)[1], columns)[0], columns)
    return {"messages": talk, "tools": None if tools is None else as_json(tools)}


def training_row(row: dict[str, Any], columns: ChatColumns) -> dict[str, Any]:
    """Return the conversation as TRL and chat templates expect it: {messages}, and {tools} if there are any.

    `unlearned` lists the positions of messages that are marked as not learned, if there are any.
    """
    made: dict[str, Any] = {"messages": unpacked(row["messages"])}
    if row.get("tools"):
        made["tools"] = from_json(row["tools"])
    if silent := unlearned(row["messages"]):
        made["unlearned"] = silent
    return made


def question(row: dict[str, Any], columns: ChatColumns) -> tuple[list[dict[str, Any]], str] | None:
    """Return all messages but the last and the last one's content, if that is an assistant's text; else None.

    None also if the last message is marked as not learned: it is no example of a right answer.
    """
    *asked, last = row["messages"]
    if last["role"] != "assistant" or not last["content"] or not asked or unlearned([last]):
        return None
    return unpacked(asked), last["content"]


def _messages_of(row: dict[str, Any], columns: ChatColumns) -> tuple[str, Any]:
    """Find the column with the messages and its value, parsed if it is JSON text."""
    key = columns.messages_key
    if row.get(key) is None and row.get(SHAREGPT_KEY) is not None:
        key = SHAREGPT_KEY
    value = row.get(key)
    if type(value) is str:
        try:
            value = from_json(value)
        except orjson.JSONDecodeError:
            return key, row[key]
    return key, value


def no_list(row: dict[str, Any], key: str, messages: Any, columns: MessageRules) -> Iterator[Fault]:
    """Yield the fault of a column of messages that holds none."""
    if key not in row:
        yield from missing_columns(row, named_by(columns, [key]))
    elif type(row[key]) is str and messages == row[key] and not messages.startswith('"'):
        yield Fault("DATA-E0411", key, as_found(messages), f"a list of messages as JSON ({_why_no_json(messages)})",
                    "write the cell as a JSON list")  # fmt: skip
    else:
        yield Fault("DATA-E0401", key, as_found(messages), f"a list of messages, not {kind_of(messages)}",
                    'write it as [{"role": …, "content": …}, …]')  # fmt: skip


def _why_no_json(text: str) -> str:
    try:
        from_json(text)
    except orjson.JSONDecodeError as error:
        return str(error.msg)
    return "not a list"
