"""Tool calls in conversations: function schemas, the assistant's calls, and tool results.

Chat templates write arguments with `tojson`, so a call's arguments are kept as an object, as transformers documents it;
OpenAI's format, an object as JSON text, would be encoded twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from steps.tasks import Fault, as_found, kind_of
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.json_text import from_json


def read_calls(calls: Any) -> tuple[Any, bool, bool]:
    """Return calls with objects as arguments; whether there was JSON text; and whether arguments were absent.

    The list of calls, a function and its arguments may be JSON text. A call without arguments gets {}, because
    templates would write null or an empty text. What cannot be read stays unchanged.

    [{"function": {"name": "add", "arguments": '{"a": 1}'}}] → [{"function": {"name": "add", "arguments": {"a": 1}}}]
    """
    if type(read := _from_text(calls, list)) is not list:
        return calls, False, False
    made, text, absent = [], read is not calls, False
    for call in read:
        held = call.get("function", call) if type(call) is dict else None
        function = _from_text(held, dict)
        if type(function) is not dict or not _is_name(function.get("name")):
            made.append(call)
            continue
        given = function.get("arguments")
        nothing = given is None or (type(given) is str and is_blank(given))
        arguments = {} if nothing else _from_text(given, dict)
        absent |= nothing
        text |= function is not held or (arguments is not given and not nothing)
        function = function if arguments is given else {**function, "arguments": arguments}
        made.append({**call, "function": function} if "function" in call else function)
    return (made, text, absent) if text or absent else (calls, False, False)


def calls_in_text(text: Any) -> list[dict[str, Any]]:
    """Parse the calls in the text of a ShareGPT function_call; empty if there are none."""
    try:
        value = from_json(text)
    except (orjson.JSONDecodeError, TypeError):
        return []
    calls = value if type(value) is list else [value]
    if not all(type(call) is dict and "name" in call for call in calls):
        return []
    return [{"type": "function", "function": call} for call in calls]


def call_faults(calls: Any, role: Any, path: str) -> Iterator[Fault]:
    """Yield the errors in the calls of one message."""
    if type(calls) is not list:
        yield Fault("DATA-E0420", path, as_found(calls), f"a list of calls, not {kind_of(calls)}",
                    'write it as [{"type": "function", "function": {"name": …, "arguments": {…}}}]')  # fmt: skip
        return
    if role in ("user", "system", "tool"):
        yield Fault("DATA-E0420", path, f'tool calls of the role "{role}"', "calls of the assistant only",
                    "move them to the assistant's message")  # fmt: skip
    for index, call in enumerate(calls):
        function = _function(call)
        if type(function) is not dict or not _is_name(function.get("name")):
            yield Fault("DATA-E0420", f"{path}[{index}].function", as_found(call), "an object with name and arguments",
                        'write it as {"type": "function", "function": {"name": …, "arguments": {…}}}')  # fmt: skip
            continue
        if (id_ := call.get("id")) is not None and type(id_) not in (str, int):
            yield Fault("DATA-E0420", f"{path}[{index}].id", as_found(id_), f"text, not {kind_of(id_)}",
                        "write the call's id as text, or leave it out")  # fmt: skip
        if (kind := call.get("type")) is not None and not _is_name(kind):
            yield Fault("DATA-E0420", f"{path}[{index}].type", as_found(kind), '"function"',
                        "correct it, or leave it out")  # fmt: skip
        arguments = function.get("arguments")
        if arguments is not None and type(arguments) is not dict:
            yield Fault("DATA-E0419", f"{path}[{index}].function.arguments", as_found(arguments),
                        "an object, or an object as JSON text", "write the arguments as an object")  # fmt: skip


def result_faults(messages: list[Any], path: str) -> Iterator[Fault]:
    """Yield the tool results without a call: no assistant message before them, or no earlier call with that id."""
    ids: set[Any] = set()
    called = unnamed = spoke = False
    for index, message in enumerate(messages):
        if type(message) is not dict:
            continue
        if message.get("role") == "assistant":
            spoke = True
            calls = message.get("tool_calls")
            for call in calls if type(calls) is list else ():
                called = True
                if type(call) is dict and type(call.get("id")) in (str, int):
                    ids.add(call["id"])
                else:
                    unnamed = True
        elif message.get("role") == "tool":
            answers = message.get("tool_call_id")
            if answers is None and not spoke:
                yield Fault("DATA-E0421", f"{path}[{index}].role", "a tool result without a call",
                            "a call by the assistant before it", "add the call, or remove the row")  # fmt: skip
            elif answers is not None and not (called and unnamed) and not _is_one_of(answers, ids):
                yield Fault("DATA-E0421", f"{path}[{index}].tool_call_id", as_found(answers),
                            f"the id of an earlier call ({', '.join(sorted(map(str, ids)))[:60] or 'there is none'})",
                            "correct the id, add the call, or remove the row")  # fmt: skip


def read_tools(value: Any) -> Any:
    """Read the schemas of a row: a list, or a list as JSON text; None if empty, any other value unchanged."""
    if type(value) is str:
        if is_blank(value):
            return None
        try:
            value = from_json(value)
        except orjson.JSONDecodeError:
            return value
    if type(value) is list:
        value = [_from_text(tool, dict) for tool in value]
    return None if value in ([], {}) else value


def tools_faults(value: Any, path: str) -> Iterator[Fault]:
    """Yield the errors in the schemas of a row, as returned by `read_tools`."""
    form = '[{"type": "function", "function": {"name": …, "parameters": {…}}}]'
    if type(value) is not list:
        yield Fault("DATA-E0423", path, as_found(value), "a list of function schemas, or one as JSON text",
                    f"write it as {form}")  # fmt: skip
        return
    for index, tool in enumerate(value):
        function = _function(tool)
        if type(function) is not dict or not _is_name(function.get("name")):
            yield Fault("DATA-E0423", f"{path}[{index}]", as_found(tool), "a function schema with a name",
                        f"write it as {form[1:-1]}")  # fmt: skip
            continue
        for key, right in (("description", str), ("parameters", dict)):
            if (value := function.get(key)) is not None and type(value) is not right:
                yield Fault("DATA-E0423", f"{path}[{index}].{key}", as_found(value), f"{kind_of(right())}, not "
                            f"{kind_of(value)}", f"correct it, or leave {key} out")  # fmt: skip


def _is_one_of(value: Any, ids: set[Any]) -> bool:
    return type(value) in (str, int) and value in ids


def _is_name(value: Any) -> bool:
    return type(value) is str and not is_blank(value)


def _function(call: Any) -> Any:
    """Return the object of a call or schema that holds the name; the enclosing object may be missing."""
    return call.get("function", call) if type(call) is dict else None


def _from_text(value: Any, kind: type) -> Any:
    """Parse JSON text that holds a value of this kind; return any other value unchanged."""
    if type(value) is not str:
        return value
    try:
        read = from_json(value)
    except orjson.JSONDecodeError:
        return value
    return read if type(read) is kind else value
