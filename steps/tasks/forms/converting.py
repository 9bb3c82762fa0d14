"""Values of a row → messages, each with its origin in the row, so that an error names the user's own column."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import orjson

from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.json_text import from_json
from steps.tasks.rules.standard import LEARNED, REASONING, SHAREGPT_ROLES

ASKS = ("human", "user", "input", "instruction", "query", "prompt", "question")
SAYS = ("assistant", "gpt", "bot", "output", "response", "answer", "completion")
SPOKEN = frozenset(("role", "from", "speaker"))  # a message has one of these keys, a turn of two none
HH_TURN = re.compile(r"\n\n(Human|Assistant): ?")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}

# Told of a row, as the report names them.
TURNS = ("DATA-F0613", "turns of a question and an answer read as messages")
ALTERNATING = ("DATA-F0614", "texts read as messages of the user and the assistant in turn")
SYSTEM_READ = ("DATA-F0615", "the column with a system text read as the first message")
TWO_SYSTEMS = ("DATA-W0616", "the column with a system text differs from the conversation's own system message, which "
               "is used")  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Where in the user's row a message came from."""

    path: str
    is_text: bool = True
    """Whether the place holds the text itself, not a message."""


@dataclass
class Talk:
    """Messages with their origins, and what is told of them."""

    messages: Any
    """A list, or any other value where a list was expected."""
    origins: list[Origin] = field(default_factory=list)
    notes: dict[tuple[str, str], None] = field(default_factory=dict)
    unused: dict[str, None] = field(default_factory=dict)
    """Keys of turns that are not read."""
    path: str = ""
    """The column that it was read from, if there are no messages."""

    def add(self, message: Any, path: str, is_text: bool = True) -> None:
        """Append one message."""
        self.messages.append(message)
        self.origins.append(Origin(path, is_text))

    def extend(self, later: Talk) -> Talk:
        """Append the messages of `later`, if they are a list."""
        self.notes |= later.notes
        self.unused |= later.unused
        if type(later.messages) is list:
            self.messages = [*self.messages, *later.messages]
            self.origins = [*self.origins, *later.origins]
        elif later.messages is not None:
            self.add(later.messages, later.origins[0].path)
        return self


def is_empty(value: Any) -> bool:
    """Return whether a cell holds nothing: null or a blank text."""
    return value is None or (type(value) is str and is_blank(value))


def parsed(value: Any) -> Any:
    """Parse a list or object that a cell holds as JSON text; return any other value unchanged."""
    if type(value) is str and value.lstrip()[:1] in ("[", "{"):
        try:
            read = from_json(value)
        except orjson.JSONDecodeError:
            return value
        return read if type(read) in (list, dict) else value
    return value


def question(row: dict[str, Any], ask: str, beside: str = "") -> Talk:
    """Return a question as one message, with the text beside it on a line of its own; or the messages that it is.

    {"instruction": "Add.", "input": "2 + 2"} → [{"role": "user", "content": "Add.\\n2 + 2"}]
    """
    asked, more = row.get(ask), row.get(beside) if beside else None
    talk = Talk([], path=ask)
    if (messages := _messages_in(asked)) is not None:
        for number, message in enumerate(messages):
            talk.add(message, f"{ask}[{number}]", is_text=False)
        if not is_empty(more):
            talk.add({"role": "user", "content": more}, beside)
        return talk
    if is_empty(more):
        content, path = asked, ask
    elif type(more) is not str or is_empty(asked):
        content, path = more, beside
    else:
        content, path = f"{asked}\n{more}" if type(asked) is str else asked, ask
    talk.add({"role": "user", "content": content}, path)
    return talk


def answer(value: Any, path: str) -> Talk:
    """Return an answer as messages: a text is one, an object is one, a list is several."""
    talk = Talk([], path=path)
    if (messages := _messages_in(value)) is not None:
        for number, message in enumerate(messages):
            talk.add(message, path if type(value) is dict else f"{path}[{number}]", is_text=False)
    else:
        talk.add({"role": "assistant", "content": value}, path)
    return talk


def earlier_turns(value: Any, path: str) -> Talk:
    """Return the messages of a history: [["2 + 2?", "4"], …]; empty for nothing."""
    value = parsed(value)
    return Talk([]) if is_empty(value) else turns(value, path)


def turns(value: Any, path: str) -> Talk:
    """Return a conversation as messages, one for each or two for each turn; other values stay unchanged.

    [{"human": "2 + 2?", "assistant": "4"}] → [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", …}]
    [["2 + 2?", "4"]] and ["2 + 2?", "4"] → the same
    """
    value = parsed(value)
    if type(value) is dict and _is_turn(value):
        value = [value]
    if type(value) is not list:
        return Talk(value, [Origin(path)])
    talk = Talk([], path=path)
    if value and all(type(item) is str for item in value):
        talk.notes[ALTERNATING] = None
        for number, text in enumerate(value):
            talk.add({"role": "assistant" if number % 2 else "user", "content": text}, f"{path}[{number}]")
        return talk
    for number, item in enumerate(value):
        here = f"{path}[{number}]"
        if type(item) is list and len(item) == 2 and all(type(text) in (str, type(None)) for text in item):
            talk.notes[TURNS] = None
            talk.add({"role": "user", "content": item[0]}, f"{here}[0]")
            talk.add({"role": "assistant", "content": item[1]}, f"{here}[1]")
        elif type(item) is dict and _is_turn(item):
            _add_turn(talk, item, here)
        else:
            talk.add(item, here, is_text=False)
    return talk


def with_system(talk: Talk, row: dict[str, Any], columns: tuple[str, ...]) -> Talk:
    """Put the text of the first of these columns that has one before the messages."""
    name = next((name for name in columns if not is_empty(row.get(name)) and row[name] != []), "")
    if not name or type(talk.messages) is not list:
        return talk
    content, first = _text_or_parts(row[name]), talk.messages[0] if talk.messages else None
    own = first.get("content", first.get("value")) if type(first) is dict and _is_system(first) else None
    if own is not None and own != "":
        if own != content:
            talk.notes[TWO_SYSTEMS] = None
        return talk
    talk.notes[SYSTEM_READ] = None
    if type(first) is dict and _is_system(first):  # an empty system message
        talk.messages, talk.origins = talk.messages[1:], talk.origins[1:]
    talk.messages = [{"role": "system", "content": content}, *talk.messages]
    talk.origins = [Origin(name), *talk.origins]
    return talk


def is_transcript(text: Any) -> bool:
    """Return whether a text is a transcript that starts with a human: "\\n\\nHuman: …\\n\\nAssistant: …"."""
    return type(text) is str and text.startswith("\n\nHuman:") and "\n\nAssistant:" in text


def transcript(text: str, path: str) -> Talk:
    """Return the messages of a transcript.

    "\\n\\nHuman: 2 + 2?\\n\\nAssistant: 4" → [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", …}]
    """
    talk = Talk([])
    _, *pieces = HH_TURN.split(text)
    for name, content in zip(pieces[::2], pieces[1::2], strict=True):
        talk.add({"role": HH_ROLES[name], "content": content}, path)
    return talk


def needs_reading(value: Any) -> bool:
    """Return whether a conversation certainly or possibly has turns that are not messages."""
    if type(value) is str:
        return True
    if type(value) is dict:
        return _is_turn(value)
    if type(value) is not list:
        return False
    return any(type(item) is not dict or SPOKEN.isdisjoint(item) for item in value)


def _messages_in(value: Any) -> list[Any] | None:
    """Return messages, or a single one, as a list, also those that a cell holds as JSON text; None for other values."""
    read = parsed(value)
    if type(read) is dict and not SPOKEN.isdisjoint(read):
        return [read]
    if type(read) is list and any(type(item) is dict and not SPOKEN.isdisjoint(item) for item in read):
        return read
    return None


def _text_or_parts(value: Any) -> Any:
    """Return the parts of a text, also those that a cell holds as JSON text; any other value unchanged."""
    read = parsed(value)
    return read if type(read) is list and all(type(part) is dict and "type" in part for part in read) else value


def _is_turn(item: dict[str, Any]) -> bool:
    return SPOKEN.isdisjoint(item) and any(key in item for key in (*ASKS, *SAYS))


def _is_system(message: dict[str, Any]) -> bool:
    named = message.get("role"), message.get("from")
    return any(type(name) is str and SHAREGPT_ROLES.get(name.strip().lower()) == "system" for name in named)


def _add_turn(talk: Talk, item: dict[str, Any], here: str) -> None:
    """Append the messages of {"system": …, "human": …, "assistant": …}; its other keys belong to the assistant's."""
    talk.notes[TURNS] = None
    ask, say = (next((key for key in keys if key in item), "") for keys in (ASKS, SAYS))
    if not is_empty(item.get("system")):
        talk.add({"role": "system", "content": item["system"]}, f"{here}.system")
    if ask and not (ask == "input" and is_empty(item[ask])):  # a turn that only the assistant speaks
        talk.add({"role": "user", "content": item[ask]}, f"{here}.{ask}")
    kept = {key: item[key] for key in (*LEARNED, *REASONING, "tool_calls") if key in item}
    if say:
        talk.add({"role": "assistant", "content": item[say], **kept}, f"{here}.{say}")
    known = {ask, say, "system", *kept}
    talk.unused |= dict.fromkeys(f"{key} of turns" for key in item if key not in known)
