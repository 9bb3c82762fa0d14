"""Messages in the ways that people write them → {role, content, …}, one for each given message.

    {"from": "human", "value": "hi"}                                           ShareGPT
    {"role": "user", "content": [{"type": "text", "text": "hi"}]}              parts; the text may be named value
    {"role": "assistant", "content": [{"type": "reasoning", "value": "…"}, …]} → reasoning_content
    {"role": "assistant", "content": "5", "weight": 0}                         not learned; also train, loss, …

Values that are unknown stay unchanged, and the checks of `messages.py` refuse them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from steps.params.chat_columns import ROLES, MessageRules
from steps.tasks import Fault, as_found
from steps.tasks.rules.json_text import from_json
from steps.tasks.rules.tool_calls import calls_in_text, read_calls

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
                  "bard": "assistant", "model": "assistant", "assistant": "assistant", "system": "system",
                  "developer": "system",
                  "function_call": "assistant", "tool_call": "assistant", "observation": "tool",
                  "function_response": "tool", "tool_response": "tool", "tool": "tool"}  # fmt: skip
CALLS = ("function_call", "tool_call")
# Names of roles that OpenAI and Gemini write beside `content`; there, other names than these and ours are refused.
ROLE_NAMES = {**dict(zip(ROLES, ROLES, strict=True)), "developer": "system", "model": "assistant"}
SPEAKERS = ("from", "speaker")  # keys that stand for role
TEXTS = ("value", "text")  # keys that stand for content
TEXT_PARTS = ("input_text", "output_text")  # OpenAI's names of text parts in its Responses API
REASONING_PARTS = ("reasoning", "thinking")  # types of parts
REASONING = ("reasoning_content", "reasoning", "thinking")  # keys of a message that templates may read
# Keys of a message that say whether it is learned; a canonical message has only the first, and only if it is 0.
LEARNED = ("weight", "train", "training", "loss", "train_on_turn")
VALUES = {True: True, False: False, "1": True, "0": False, "true": True, "false": False}

# Repairs, as the report names them.
SHAREGPT = ("DATA-F0414", "ShareGPT messages: from and value read as role and content")
OTHER_KEYS = ("DATA-F0431", "messages with other keys read as role and content")
MAPPED = ("DATA-F0415", "roles renamed by role_map")
RENAMED = ("DATA-F0443", "roles in other words read as ours, such as developer as system, Model as assistant")
PARTS = ("DATA-F0417", "text parts joined into one content")
REASONED = ("DATA-F0432", "parts with reasoning read as reasoning_content")
ARGUMENTS = ("DATA-F0418", "arguments of tool calls read from JSON text")
NO_ARGUMENTS = ("DATA-F0444", "tool calls without arguments read as calls with the arguments {}")
FUNCTION_CALL = ("DATA-F0438", "function_call and the role function read as tool_calls and the role tool")
UNLEARNED = ("DATA-F0433", "conversations with messages that are marked as not learned")
FOREIGN_MARK = ("DATA-W0434", "messages of other roles that are marked as learned: only an assistant's mark has an "
                "effect")  # fmt: skip

Repairs = dict[tuple[str, str], None]


def standard(messages: list[Any], rules: MessageRules) -> tuple[list[Any], list[tuple[str, str]]]:
    """Return messages in the standard form, one for each given message, and the repairs.

    [{"from": "human", "value": "hi"}] → [{"role": "user", "content": "hi"}]
    """
    repairs: Repairs = {}
    return [_standard(m, rules, repairs) if type(m) is dict else m for m in messages], list(repairs)


def from_text(value: Any) -> Any:
    """Parse a list that a cell holds as JSON text; return any other value unchanged."""
    if type(value) is str and value.lstrip()[:2] in ("[{", "[]", "[ ", "[\n"):
        try:
            read = from_json(value)
        except orjson.JSONDecodeError:
            return value
        return read if type(read) is list else value
    return value


def from_cell_text(value: Any) -> Any:
    """Parse an object that a cell holds as JSON text; return any other value unchanged."""
    if type(value) is str and value.lstrip()[:1] == "{":
        try:
            return from_json(value)
        except orjson.JSONDecodeError:
            return value
    return value


def is_message(value: Any) -> bool:
    """Return whether a value is one message."""
    if type(value) is not dict:
        return False
    return any(key in value for key in ("role", *SPEAKERS)) and any(key in value for key in ("content", *TEXTS))


def is_learned(message: dict[str, Any]) -> bool:
    """Return whether a standard message may be learned."""
    return message.get("weight") != 0


def without_marks(messages: list[Any]) -> list[Any]:
    """Return standard messages without the mark that they are not learned; the same list if there is none."""
    if all(type(m) is not dict or is_learned(m) for m in messages):
        return messages
    return [{k: v for k, v in m.items() if k != "weight"} if type(m) is dict else m for m in messages]


def mark_faults(message: dict[str, Any], path: str) -> Iterator[Fault]:
    """Yield the errors in the keys of a message that say whether it is learned."""
    marks = {key: message[key] for key in LEARNED if message.get(key) is not None}
    for key, value in marks.items():
        if _truth(value) is None:
            yield Fault("DATA-E0435", f"{path}.{key}", as_found(value), "0 or 1, or true or false: a message is "
                        "learned or not", "write one of them, or remove the key")  # fmt: skip
            return
    if len({_truth(value) for value in marks.values()}) > 1:
        found = ", ".join(f"{key}: {as_found(value)}" for key, value in marks.items())
        yield Fault("DATA-E0436", path, found, "keys that agree on whether the message is learned", "keep one of them")


def _standard(message: dict[str, Any], rules: MessageRules, repairs: Repairs) -> dict[str, Any]:
    if message.get("role") is None or "content" not in message:
        message = _with_our_keys(message, rules, repairs)
    role = message.get("role")
    if rules.role_map and type(role) is str and role in rules.role_map:
        message = {**message, "role": rules.role_map[role]}
        repairs[MAPPED] = None
    elif type(role) is str and role not in ROLES and (ours := ROLE_NAMES.get(role.strip().lower())):
        message = {**message, "role": ours}
        repairs[RENAMED] = None
    if type(message.get("content")) is list and message["content"]:
        message = _with_joined_parts(message, repairs)
    if message.get("role") == "function" or type(message.get("function_call")) is dict:
        message = _with_tool_calls(message, repairs)
    if message.get("tool_calls"):
        calls, text, absent = read_calls(message["tool_calls"])
        repairs |= dict.fromkeys([ARGUMENTS] * text + [NO_ARGUMENTS] * absent)
        message = {**message, "tool_calls": calls} if text or absent else message
    return message if message.keys().isdisjoint(LEARNED) else _with_one_mark(message, repairs)


def _with_our_keys(message: dict[str, Any], rules: MessageRules, repairs: Repairs) -> dict[str, Any]:
    """{"from": "function_call", "value": '{"name": …}'} → {"role": "assistant", "content": null, "tool_calls": […]}"""
    said = next((key for key in SPEAKERS if key in message), "") if message.get("role") is None else "role"
    held = next((key for key in TEXTS if key in message), "") if message.get("content") is None else "content"
    if not said or not held or said not in message or (said, held) == ("role", "content"):
        return message
    more = {key: value for key, value in message.items() if key not in (said, held, "role", "content")}
    name, content = message[said], message[held]
    repairs[SHAREGPT if (said, held) == ("from", "value") else OTHER_KEYS] = None
    if said == "role":
        return {"role": name, "content": content, **more}
    known = type(name) is str and name not in rules.role_map  # the user's role_map is applied later
    role = SHAREGPT_ROLES.get(name.strip().lower(), name) if known else name
    if name in CALLS and (calls := calls_in_text(content)):
        return {"role": role, "content": None, "tool_calls": calls, **more}
    return {"role": role, "content": content, **more}


def _with_tool_calls(message: dict[str, Any], repairs: Repairs) -> dict[str, Any]:
    """{"function_call": {"name": …}} → {"tool_calls": [{"type": "function", "function": {"name": …}}]}"""
    if message.get("tool_calls"):
        return message
    repairs[FUNCTION_CALL] = None
    made = {**message, "role": "tool"} if message.get("role") == "function" else {**message}
    if type(called := made.pop("function_call", None)) is dict:
        made["tool_calls"] = [{"type": "function", "function": called}]
    return made


def _with_joined_parts(message: dict[str, Any], repairs: Repairs) -> dict[str, Any]:
    """Join the parts of a content that are texts, and those with reasoning; leave it if there are others."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in message["content"]:
        kind, text = _text_of(part)
        if text is None or (kind in REASONING_PARTS and message.get("reasoning_content")):
            return message
        (thoughts if kind in REASONING_PARTS else texts).append(text)
    repairs[PARTS] = None
    joined = {**message, "content": "".join(texts)}
    if thoughts:
        repairs[REASONED] = None
        joined["reasoning_content"] = "\n".join(thoughts)
    return joined


def _text_of(part: Any) -> tuple[str, str | None]:
    """Return the type and the text of a part; None if it has none."""
    if type(part) is not dict:
        return "", None
    kind = part.get("type", "text")
    kind = "text" if kind in TEXT_PARTS else kind
    if kind not in ("text", *REASONING_PARTS):
        return str(kind), None
    texts = [part[key] for key in ("text", "value", "content", kind) if type(part.get(key)) is str]
    return kind, texts[0] if texts else None


def _with_one_mark(message: dict[str, Any], repairs: Repairs) -> dict[str, Any]:
    """Replace the keys that say whether a message is learned by {"weight": 0}, or by nothing; not if they are wrong."""
    if next(mark_faults(message, ""), None):
        return message
    values = [_truth(message[key]) for key in LEARNED if message.get(key) is not None]
    message = {key: value for key, value in message.items() if key not in LEARNED}
    if False in values:
        repairs[UNLEARNED] = None
        return {**message, "weight": 0}
    if values and message.get("role") in ("system", "user", "tool"):
        repairs[FOREIGN_MARK] = None
    return message


def _truth(value: Any) -> bool | None:
    """Read true and false, 1 and 0, also as text; None for anything else."""
    return VALUES.get(value) if type(value) in (bool, int, float, str) else None
