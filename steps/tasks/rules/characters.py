"""Characters that nobody sees, or that show that a text was damaged on its way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import orjson

# White space of every kind, control characters, and what Unicode calls ignorable: joiners, marks of direction, fillers.
UNSEEN = (
    "\\s\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
visible = re.compile(f"[^{UNSEEN}]").search
"""Called with a text: a match at its first visible character, or None."""
BETWEEN = re.compile(f"[{UNSEEN}]+")
AROUND = re.compile(f"^[{UNSEEN}]+|[{UNSEEN}]+$")

NUL, MARK, REPLACED = "\0", "\ufeff", "\ufffd"
# Character → warning about a text that contains it.
DAMAGE = {
    NUL: ("DATA-W0202", "text contains the character U+0000"),
    MARK: ("DATA-W0204", "text contains U+FEFF, a byte order mark, which is learned as a character"),
    REPLACED: ("DATA-W0205", "text contains U+FFFD, which replaced a character that could not be decoded"),
}
# How they are written in JSON.
ESCAPED = re.compile(rb"\\u(?:0000|[fF][eE][fF][fF]|[fF]{3}[dD])")
WRITTEN = (MARK.encode(), REPLACED.encode())


def is_blank(text: str) -> bool:
    """Return whether a text has no visible character."""
    return visible(text) is None


def collapsed(text: str) -> list[str]:
    """Return the words of a text, divided by characters that nobody sees."""
    return [word for word in BETWEEN.split(text) if word]


def trimmed(text: str) -> str:
    """Return a text without invisible characters at its ends."""
    return AROUND.sub("", text)


def may_be_damaged(block: bytes) -> bool:
    """Return whether a block of JSON may contain one of the characters in DAMAGE."""
    return any(sign in block for sign in WRITTEN) or (b"\\u" in block and ESCAPED.search(block) is not None)


def damage_in(value: Any) -> Iterator[str]:
    """Yield each character of DAMAGE that a value contains, once."""
    texts = list(_texts(value))
    for character in DAMAGE:
        if any(character in text for text in texts):
            yield character


def _texts(value: Any) -> Iterator[str]:
    if type(value) is str:
        yield value
        if value[:1] in ("[", "{") and "\\u" in value:  # JSON text, as a csv cell and canonical rows have it
            with suppress(orjson.JSONDecodeError):
                yield from _texts(orjson.loads(value))
    elif type(value) in (list, dict):
        for inner in value.values() if type(value) is dict else value:
            yield from _texts(inner)
