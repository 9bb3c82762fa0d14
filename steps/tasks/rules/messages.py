"""Messages of conversations in the standard form (`standard.py`): their checks and canonical form, for all tasks.

is_plain(messages)            quick check for the common case: valid messages that need no repair
conversation_faults(…)        errors in standard messages
packed(messages)              standard → canonical, with the keys besides role and content as one JSON text
unpacked(messages)            canonical → the form for chat templates
as_one_text(messages)         one text for tables
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

import pyarrow as pa

from steps.params.chat_columns import ROLES, MessageRules
from steps.tasks import Fault, as_found, kind_of
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.json_text import as_json, from_json
from steps.tasks.rules.standard import REASONING, is_learned, mark_faults, without_marks
from steps.tasks.rules.tool_calls import call_faults, result_faults

MESSAGES = pa.list_(
    pa.struct(
        [
            pa.field("role", pa.string(), nullable=False),
            pa.field("content", pa.string()),
            # The message's other keys as one JSON object; null if there are none.
            pa.field("more", pa.string()),
        ]
    )
)

# Each row is tested three times in succession (check, remarks, canonical form), so the last result is cached.
_last_plain: list[Any] = [None]

# Names of these roles in other systems.
OTHER_NAMES = {"bot": "assistant", "gpt": "assistant", "model": "assistant", "ai": "assistant", "chatgpt": "assistant",
               "chatbot": "assistant", "human": "user", "prompter": "user", "function": "tool", "ipython": "tool",
               "observation": "tool", "tool_response": "tool", "function_response": "tool"}  # fmt: skip
# Types of parts in Anthropic's messages → where calls and their results are here.
CALL_PARTS = {"tool_use": 'tool_calls: [{"type": "function", "function": {"name": …, "arguments": {…}}}]',
              "tool_result": 'a message {"role": "tool", "content": …}'}  # fmt: skip
# Keys of a standard message that are read here, by TRL or by common templates.
READ_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "weight", *REASONING}
TURN_BREAK = "\n\n"  # between joined turns: a new paragraph in Markdown

# As the report names them.
JOINED = ("DATA-F0416", "consecutive user turns joined")
UNANSWERED = ("DATA-W0441", "the last message is not the assistant's: nothing is learned from the messages after its "
              "last turn")  # fmt: skip
LATE_SYSTEM = ("DATA-W0424", "a system message after the first message")


def forbidden_characters(value: Any, path: str) -> Iterator[Fault]:
    """Yield a fault for each text with U+0000, which many tokenizers and databases do not accept (strict=true)."""
    if type(value) is str:
        if "\0" in value:
            yield Fault("DATA-E0413", path, as_found(value), "text without the character U+0000",
                        "remove the character, or set strict=false")  # fmt: skip
    elif type(value) is list:
        for index, inner in enumerate(value):
            yield from forbidden_characters(inner, f"{path}[{index}]")
    elif type(value) is dict:
        for name, inner in value.items():
            yield from forbidden_characters(inner, f"{path}.{name}")


def is_plain(messages: list[Any]) -> bool:
    """Return whether a conversation certainly needs no repair: only role and text, valid order, with an answer."""
    if messages is _last_plain[0]:
        return True
    before: Any = ""
    answered = False
    try:
        for message in messages:
            role, content = message["role"], message["content"]
            if type(content) is not str or len(message) != 2 or is_blank(content):
                return False
            if role == "assistant":
                answered = True
            elif role == "user":
                if before == "user":
                    return False
            elif role != "system" or before:
                return False
            before = role
    except (KeyError, TypeError):
        return False
    if answered:
        _last_plain[0] = messages
    return answered


def joined(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join consecutive user turns into the first of them; not learned if one of them is not."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        if turns and message["role"] == "user" == turns[-1]["role"]:
            mark = {} if is_learned(message) else {"weight": 0}
            turns[-1] = {**turns[-1], "content": f"{turns[-1]['content']}{TURN_BREAK}{message['content']}", **mark}
        else:
            turns.append(message)
    return turns


def conversation_faults(messages: list[Any], path: str, rules: MessageRules) -> Iterator[Fault]:
    """Yield the errors in standard messages: in single messages, in their order, and a missing answer."""
    yield from message_faults(messages, path, rules)
    yield from order_faults(messages, path, rules)
    roles = [_role_of(message) for message in messages]
    if roles and set(roles) <= set(ROLES) - {"assistant"}:  # an unknown role, already reported, may be the answer
        yield Fault("DATA-E0410", path, f"roles {', '.join(roles)[:60]}",
                    "at least one assistant turn to learn from", "add the answer, or remove the row")  # fmt: skip
    answers = [m for m in messages if type(m) is dict and m.get("role") == "assistant"]
    if answers and not any(map(is_learned, answers)):
        yield Fault("DATA-E0437", path, f"{len(answers)} assistant turns, all marked as not learned",
                    "at least one assistant turn to learn from", "remove the mark of one, or the row")  # fmt: skip


def message_faults(messages: list[Any], path: str, rules: MessageRules) -> Iterator[Fault]:
    """Yield the errors in single messages, or a fault if there are no messages."""
    if not messages:
        yield Fault("DATA-E0402", path, "[]", "at least one message", "fill it in, or remove the row")
    for index, message in enumerate(messages):
        yield from _message_faults(message, f"{path}[{index}]", rules)


def order_faults(messages: list[Any], path: str, rules: MessageRules) -> Iterator[Fault]:
    """Yield the errors in the order of messages: consecutive user turns, tool results without a call."""
    before: Any = ""
    for index, message in enumerate(messages):
        here = f"{path}[{index}]"
        role = message.get("role") if type(message) is dict else None
        if role == "user" and before == "user" and not rules.merge_turns:
            yield Fault("DATA-E0409", f"{here}.role", "two user turns in a row", "an answer between them",
                        "join the two (merge_turns=true does), or remove the row")  # fmt: skip
        elif role == "system" and index and not rules.allow_late_system:
            yield Fault("DATA-E0408", f"{here}.role", '"system"', "the system message first",
                        "move it to the start, or set allow_late_system=true")  # fmt: skip
        before = role
    yield from result_faults(messages, path)


def remarks_on(
    messages: list[dict[str, Any]], repairs: list[tuple[str, str]], rules: MessageRules
) -> Iterator[tuple[str, str]]:
    """Yield the remarks on valid standard messages."""
    yield from repairs
    roles = [message["role"] for message in messages]
    if rules.merge_turns and ("user", "user") in pairwise(roles):
        yield JOINED
    if "system" in roles[1:]:
        yield LATE_SYSTEM
    if others := sorted({key for m in messages for key, value in m.items() if value is not None} - READ_KEYS):
        named = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        yield "DATA-W0446", f"keys of messages that have no effect unless the chat template reads them: {named}"


def plain_packed(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return plain messages in their canonical form."""
    return [{"role": message["role"], "content": message["content"], "more": None} for message in messages]


def packed(messages: list[dict[str, Any]], rules: MessageRules) -> list[dict[str, Any]]:
    """Return standard messages in their canonical form; keys without a value are dropped.

    [{"role": "user", "content": "hi", "name": "Ann"}] → [{"role": "user", "content": "hi", "more": '{"name":"Ann"}'}]
    """
    if rules.merge_turns:
        messages = joined(messages)
    return [{"role": m["role"], "content": m.get("content"), "more": _more(m)} for m in messages]


def unpacked(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return canonical messages in the form that TRL and chat templates expect, without marks of what is learned."""
    return without_marks(
        [{"role": m["role"], "content": m["content"], **(from_json(m["more"]) if m["more"] else {})} for m in messages]
    )


def unlearned(messages: list[dict[str, Any]]) -> list[int]:
    """Return the positions of canonical messages that are not learned."""
    return [i for i, m in enumerate(messages) if m["more"] and not is_learned(from_json(m["more"]))]


def _message_faults(message: Any, path: str, rules: MessageRules) -> Iterator[Fault]:
    if type(message) is not dict:
        yield Fault("DATA-E0403", path, as_found(message), "an object with role and content",
                    'write it as {"role": …, "content": …}')  # fmt: skip
        return
    role, content = message.get("role"), message.get("content")
    if "role" not in message:
        yield Fault("DATA-E0407", f"{path}.role", f"the keys {', '.join(map(str, message))[:60]}", "the key role",
                    "add it")  # fmt: skip
    elif role not in ROLES:
        meant = OTHER_NAMES.get(str(role).lower()) or next(iter(get_close_matches(str(role).lower(), ROLES)), "")
        mapped = f"set role_map={role}={meant or '<one of these>'}" if type(role) is str and role.isidentifier() else ""
        fix = ", or ".join(filter(None, ("rename the role", mapped)))
        yield Fault("DATA-E0412", f"{path}.role", as_found(role), f"one of {', '.join(ROLES)}",
                    f"did you mean {meant}? {fix[0].upper()}{fix[1:]}" if meant else fix)  # fmt: skip
    if message.get("tool_calls"):
        yield from call_faults(message["tool_calls"], role, f"{path}.tool_calls")
    yield from mark_faults(message, path)
    yield from _content_faults(message, content, f"{path}.content", rules)


def _content_faults(message: dict[str, Any], content: Any, path: str, rules: MessageRules) -> Iterator[Fault]:
    if content is None:
        if not message.get("tool_calls"):
            yield Fault("DATA-E0404", path, "null" if "content" in message else "nothing",
                        "text (or tool_calls beside it)", "fill it in, or remove the row")  # fmt: skip
    elif type(content) is list and (kinds := _foreign_parts(content)):
        of_calls = [kind for kind in kinds if kind in CALL_PARTS]
        fix = f"write {of_calls[0]} as {CALL_PARTS[of_calls[0]]}" if of_calls else "remove these parts, or the row"
        yield Fault("DATA-E0422", path, f"parts of type {', '.join(kinds)}"[:80], "text only: these models do not read "
                    "images, audio or files", fix)  # fmt: skip
    elif type(content) is not str:
        yield Fault("DATA-E0405", path, as_found(content), f"text, not {kind_of(content)}",
                    "write the text itself")  # fmt: skip
    elif is_blank(content) and not message.get("tool_calls"):
        yield Fault("DATA-E0406", path, as_found(content), "text that is not empty",
                    "fill it in, or remove the row")  # fmt: skip
    elif rules.strict:
        yield from forbidden_characters(content, path)


def _foreign_parts(content: list[Any]) -> list[str]:
    kinds = [str(part.get("type")) for part in content if type(part) is dict and part.get("type") not in (None, "text")]
    return list(dict.fromkeys(kinds))


def _role_of(message: Any) -> str:
    return str(message.get("role")) if type(message) is dict else kind_of(message)


def _more(message: dict[str, Any]) -> str | None:
    if len(message) == 2 and "content" in message:
        return None
    more = {key: value for key, value in message.items() if key not in ("role", "content") and value is not None}
    return as_json(more, str) if more else None


def as_one_text(value: Any) -> str:
    """Return a text unchanged; join messages to one text for tables, each with its role unless it is alone."""
    if isinstance(value, str):
        return value
    if len(value) == 1 and value[0]["role"] in ("user", "assistant"):
        return value[0]["content"] or ""
    return "\n".join(f"{message['role']}: {message['content'] or ''}" for message in value)
