"""Find rows with strings that look like keys: a model may reveal what it has learned.

Every key contains one of a few groups of three characters with a rare last character. numpy searches a block of rows
for these groups at hundreds of megabytes per second; only lines that contain one are matched against KEYS. The keys
themselves are never reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from steps.params.secrets import SECRETS

CODE, WHAT = "DATA-W0104", "key-like strings; remove the keys from the data and revoke them"

# Not inside a word, but behind JSON's escapes.
_BEFORE = r"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4}))"
KEYS = re.compile(f"{_BEFORE}(?:{'|'.join(one.whole for one in SECRETS if one.signs)})".encode())
# One of these stands in whatever KEYS matches.
SIGNS = tuple(sign.encode() for one in SECRETS for sign in one.signs)


def lines_with_secrets(block: bytes) -> Iterator[int]:
    r"""Yield the positions, from 0, of the lines of a block that contain a string like a key; lines end in `\n`."""
    line, start, end = 0, 0, -1  # the line that was searched last
    for place in _places_of_signs(block):
        if place <= end:
            continue
        begins = block.rfind(b"\n", 0, place) + 1
        line += block.count(b"\n", start, begins)
        start, end = begins, block.find(b"\n", place)
        end = len(block) if end < 0 else end
        if KEYS.search(block, start, end):
            yield line


def _tables() -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Return tables: rare last character → which pairs of characters precede it; and which pairs surround an I."""
    tables: dict[int, np.ndarray] = {}
    around = np.zeros(1 << 16, bool)
    for first, second, last in SIGNS:
        if second == CAPITAL_I:
            around[first << 8 | last] = True
        else:
            tables.setdefault(last, np.zeros(1 << 16, bool))[first << 8 | second] = True
    return tables, around


CAPITAL_I = ord("I")
STARTS, AROUND_I = _tables()


def _places_of_signs(block: bytes) -> list[int]:
    """Return the positions of the last characters of SIGNS, in order."""
    text = np.frombuffer(block, np.uint8)
    places = np.flatnonzero(text[1:-1] == CAPITAL_I)
    found = [places[AROUND_I[text[places].astype(np.uint16) << 8 | text[places + 2]]] + 2]
    for last, starts in STARTS.items():
        places = np.flatnonzero(text[2:] == last)
        found.append(places[starts[text[places].astype(np.uint16) << 8 | text[places + 1]]] + 2)
    places_of_all: list[int] = np.sort(np.concatenate(found)).tolist()
    return places_of_all
