"""Hashes that find equal rows, and nearly equal rows: equal except for case and whitespace."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from steps.tasks.rules.json_text import as_bytes

LOWER = bytes(code + 32 if 65 <= code <= 90 else code for code in range(256))
SPACES = b" \t\r\n\x0b\x0c"
EDGE = 48
"""Characters at the end of a text that an outline reads."""
COMPARED = 24
"""Bytes of them, without whitespace, that it hashes."""


def fingerprint(row: dict[str, Any]) -> int:
    """Hash a canonical row; within one process and its forks, equal rows have equal hashes."""
    messages = row.get("messages")
    if type(messages) is not list:
        values = tuple(row.values())
        try:
            return hash(values)
        except TypeError:  # lists and objects inside
            return hash(as_bytes(values, _as_text))
    roles, texts = tuple([m["role"] for m in messages]), tuple([m["content"] for m in messages])
    more = [m["more"] for m in messages if m["more"] is not None]
    others = [value for name, value in row.items() if name != "messages" and value is not None]
    return hash((roles, texts)) if not more and not others else hash((roles, texts, as_bytes([more, others])))


def _as_text(value: Any) -> str:
    return blake2b(value).hexdigest() if type(value) is bytes else str(value)


def outline(row: dict[str, Any]) -> int:
    """Hash the folded ends of a canonical row's last two texts: nearly equal rows have equal outlines.

    Cheap to compute; only rows with equal outlines are then compared completely.
    """
    *_, before, last = ["", "", *_texts(row)]
    return outline_of(before, last)


def outline_of(before: str, last: str) -> int:
    """Return the outline of a row with these last two texts."""
    one, other = before[-EDGE:].encode().translate(LOWER, SPACES), last[-EDGE:].encode().translate(LOWER, SPACES)
    return hash((one[-COMPARED:], other[-COMPARED:]))


def folded(row: dict[str, Any]) -> int:
    """Hash all texts of a canonical row, ignoring ASCII case and whitespace."""
    return hash(b"\0".join(text.encode().translate(LOWER, SPACES) for text in _texts(row)))


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a value, in order, and a digest of bytes: rows with other images are not nearly equal."""
    if type(value) is str:
        yield value
    elif type(value) is bytes:
        yield _as_text(value)
    elif type(value) is dict:
        if "role" in value and "content" in value:  # the role is ignored
            yield from _texts(value["content"])
            yield from _texts({name: v for name, v in value.items() if name not in ("role", "content")})
        else:
            for inner in value.values():
                yield from _texts(inner)
    elif type(value) is list:
        for inner in value:
            yield from _texts(inner)
