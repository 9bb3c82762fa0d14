"""Conversations.

    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

In csv and tsv files a cell holds the list as JSON text. Other keys of a message (tool_calls, tool_call_id, name, …)
are handed to the chat template as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pyarrow as pa

from steps.params.data import ChatColumns
from steps.tasks import Fault, as_found, kind_of, missing_columns, named_by

Columns = ChatColumns

ROLES = ("system", "user", "assistant", "tool")
# What other systems call the same roles.
OTHER_NAMES = {"bot": "assistant", "gpt": "assistant", "model": "assistant", "ai": "assistant", "chatgpt": "assistant",
               "human": "user", "prompter": "user", "developer": "system", "function": "tool"}  # fmt: skip

SCHEMA = pa.schema(
    [
        pa.field(
            "messages",
            pa.list_(
                pa.struct(
                    [
                        pa.field("role", pa.string(), nullable=False),
                        pa.field("content", pa.string()),
                        # The message's other keys as one JSON object; null when there are none.
                        pa.field("more", pa.string()),
                    ]
                )
            ),
            nullable=False,
        )
    ]
)


def columns_of(columns: ChatColumns) -> tuple[str, ...]:
    """Name the required column."""
    return (columns.messages_key,)


def check_row(row: dict[str, Any], columns: ChatColumns) -> Iterator[Fault]:
    """Yield what is wrong with one conversation: its shape, its messages, their order."""
    key = columns.messages_key
    messages = row.get(key)
    if type(messages) is str:
        try:
            messages = orjson.loads(messages)
        except orjson.JSONDecodeError as error:
            yield Fault("DATA-E0411", key, as_found(row[key]), f"a list of messages as JSON ({error.msg})",
                        "write the cell as a JSON list")  # fmt: skip
            return
    if type(messages) is not list:
        if key not in row:
            yield from missing_columns(row, named_by(columns, [key]))
        else:
            yield Fault("DATA-E0401", key, as_found(messages), f"a list of messages, not {kind_of(messages)}",
                        'write it as [{"role": …, "content": …}, …]')  # fmt: skip
        return
    if not messages:
        yield Fault("DATA-E0402", key, "[]", "at least one message", "fill it in, or remove the row")
        return
    before: Any = ""
    answered = False
    for index, message in enumerate(messages):
        try:  # nearly every message is good: ask for that first
            role, content = message["role"], message["content"]
            good = role in ROLES and type(content) is str and not content.isspace() and content != ""
        except (KeyError, TypeError):
            role, good = (message.get("role") if type(message) is dict else None), False
        if not good:
            yield from _message_faults(message, f"{key}[{index}]")
        if role == "assistant":
            answered = True
        elif role == "user" and before == "user":
            yield Fault("DATA-E0409", f"{key}[{index}].role", "two user turns in a row", "an answer between them",
                        "join the two, or remove the row")  # fmt: skip
        elif role == "system" and index > 0:
            yield Fault("DATA-E0408", f"{key}[{index}].role", '"system"', "the system message first",
                        "move it to the start")  # fmt: skip
        before = role
    if not answered:
        yield Fault("DATA-E0410", key, f"roles {', '.join(map(_role_of, messages))[:60]}",
                    "at least one assistant turn to learn from", "add the answer, or remove the row")  # fmt: skip


def remarks(row: dict[str, Any], columns: ChatColumns) -> Iterator[tuple[str, str]]:
    """Nothing to say about a good conversation as long as no chat template is known."""
    return iter(())


def canonical(row: dict[str, Any], columns: ChatColumns) -> dict[str, Any]:
    """Keep role and content of every message, and its other keys as JSON text.

    {"id": 7, "messages": [{"role": "user", "content": "hi", "name": "Ann"}, …]}
    → {"messages": [{"role": "user", "content": "hi", "more": '{"name":"Ann"}'}, …]}
    """
    messages = row[columns.messages_key]
    if type(messages) is str:
        messages = orjson.loads(messages)
    return {
        "messages": [
            {
                "role": message["role"],
                "content": message.get("content"),
                "more": None if len(message) == 2 and "content" in message else _more(message),
            }
            for message in messages
        ]
    }


def training_row(row: dict[str, Any], columns: ChatColumns) -> dict[str, Any]:
    """Give the conversation as TRL and every chat template take it."""
    return {"messages": [_message(message) for message in row["messages"]]}


def question(row: dict[str, Any], columns: ChatColumns) -> tuple[list[dict[str, Any]], str] | None:
    """Give the messages up to the last one, and the last one's content when it is an assistant's text; else None."""
    *asked, last = row["messages"]
    if last["role"] != "assistant" or not last["content"] or not asked:
        return None
    return [_message(message) for message in asked], last["content"]


def _message_faults(message: Any, path: str) -> Iterator[Fault]:
    if type(message) is not dict:
        yield Fault("DATA-E0403", path, as_found(message), "an object with role and content",
                    'write it as {"role": …, "content": …}')  # fmt: skip
        return
    role, content = message.get("role"), message.get("content")
    if "role" not in message:
        sharegpt = "from" in message and "value" in message
        yield Fault("DATA-E0407", f"{path}.role", f"the keys {', '.join(map(str, message))[:60]}", "the key role",
                    "did you mean role for from and content for value? Rename them" if sharegpt else
                    "add it")  # fmt: skip
        if sharegpt:
            return
    elif role not in ROLES:
        meant = OTHER_NAMES.get(str(role).lower()) or (str(role).lower() if str(role).lower() in ROLES else "")
        yield Fault("DATA-E0412", f"{path}.role", as_found(role), f"one of {', '.join(ROLES)}",
                    f"did you mean {meant}? Rename the role" if meant else "rename the role")  # fmt: skip
    if content is None and not message.get("tool_calls"):
        yield Fault("DATA-E0404", f"{path}.content", "null" if "content" in message else "nothing",
                    "text (or tool_calls beside it)", "fill it in, or remove the row")  # fmt: skip
    elif content is not None and type(content) is not str:
        yield Fault("DATA-E0405", f"{path}.content", as_found(content), f"text, not {kind_of(content)}",
                    "write the text itself; parts and images are not supported")  # fmt: skip
    elif content is not None and not content.strip() and not message.get("tool_calls"):
        yield Fault("DATA-E0406", f"{path}.content", as_found(content), "text that is not empty",
                    "fill it in, or remove the row")  # fmt: skip


def _role_of(message: Any) -> str:
    return str(message.get("role")) if type(message) is dict else kind_of(message)


def _more(message: dict[str, Any]) -> str | None:
    more = {key: value for key, value in message.items() if key not in ("role", "content") and value is not None}
    return orjson.dumps(more).decode() if more else None


def _message(message: dict[str, Any]) -> dict[str, Any]:
    more = orjson.loads(message["more"]) if message["more"] else {}
    return {"role": message["role"], "content": message["content"], **more}
