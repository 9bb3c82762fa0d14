"""Texts as they read without the escapes of JSON, Python, URIs and HTML, and where each part stood before.

A password reads `p4/ss` in one place, `p4\\/ss`, `p4%2Fss` or `p4&#47;ss` in others. What looks for it reads a view, in
which it has one form only, and hides the part of the original text that the view names.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

LEVELS = 3  # JSON as a text in JSON has two
_ESCAPES = re.compile(
    r"\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[\"'/\\nrt])|%[0-9a-fA-F]{2}"
    r"|&(?:amp|quot|apos|lt|gt|#[0-9]{1,4}|#[xX][0-9a-fA-F]{1,4});"
)
_FORM = re.compile(rf"{_ESCAPES.pattern}|\+")  # a form in a URI or a body has + for a space
_SIMPLE = {"n": "\n", "r": "\r", "t": "\t"}
_NAMED = {"amp": "&", "quot": '"', "apos": "'", "lt": "<", "gt": ">"}
_BREAKS = re.compile(r"\\?\r?\n[ \t]*")


@dataclass(frozen=True)
class View:
    """A text with some parts replaced, each by one character or none."""

    text: str
    source: str
    """The text before."""
    pattern: re.Pattern[str]
    """What was replaced in it."""

    def before(self, start: int, end: int) -> tuple[int, int]:
        """Return where a part of this text stood in the text before."""
        return self._place(start)[0], self._place(end - 1)[1]

    def crosses(self, start: int, end: int) -> bool:
        """Return whether a part of this text has more than one piece."""
        begins, _ = self._pieces
        return bisect_right(begins, start) != bisect_right(begins, end - 1)

    @cached_property
    def _pieces(self) -> tuple[list[int], list[tuple[int, int]]]:
        """Where each piece begins here, what was kept or replaced, and where it began and ended; -1 if it was kept."""
        begins: list[int] = []
        origins: list[tuple[int, int]] = []
        last = length = 0
        for found in self.pattern.finditer(self.source):
            start, end = found.span()
            if start > last:
                begins.append(length)
                origins.append((last, -1))
                length += start - last
            if _meant(found[0]):
                begins.append(length)
                origins.append((start, end))
                length += 1
            last = end
        return [*begins, length], [*origins, (last, -1)]

    def _place(self, place: int) -> tuple[int, int]:
        """Return where a character of this text began and ended before."""
        begins, origins = self._pieces
        piece = bisect_right(begins, place) - 1
        begin, end = origins[piece]
        if end >= 0:
            return begin, end
        return begin + place - begins[piece], begin + place - begins[piece] + 1


def unescaped(text: str) -> Iterator[list[View]]:
    """Yield the views of a text without escapes: each the list of steps that lead to it, the last one first."""
    steps: list[View] = []
    if "+" in text and (form := _replaced(text, _FORM)):
        yield [form]
    for _ in range(LEVELS):
        if not ("\\" in text or "%" in text or "&" in text):
            return
        view = _replaced(text, _ESCAPES)
        if not view:
            return
        steps = [view, *steps]
        yield steps
        text = view.text


def on_one_line(text: str) -> View | None:
    """Return a text without the ends of its lines and the spaces behind them; None if it has one line."""
    return _replaced(text, _BREAKS) if "\n" in text else None


def _replaced(text: str, pattern: re.Pattern[str]) -> View | None:
    told, count = pattern.subn(lambda found: _meant(found[0]), text)
    return View(told, text, pattern) if count else None


@lru_cache(4096)
def _meant(escape: str) -> str:
    """Return the character that an escape means; none for the end of a line."""
    if escape[0] == "%":
        return chr(int(escape[1:], 16))
    if escape == "+":
        return " "
    if escape[0] == "&":
        name = escape[1:-1]
        if name[0] != "#":
            return _NAMED[name]
        return chr(int(name[2:], 16) if name[1] in "xX" else int(name[1:]))
    if escape[0] == "\\" and escape[1] not in "\r\n":
        return chr(int(escape[2:], 16)) if escape[1] in "ux" else _SIMPLE.get(escape[1], escape[1])
    return ""
