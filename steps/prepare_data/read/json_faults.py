"""Explain why a text is not a JSON object, and how to correct it.

Called only for the few texts that the parser refused or that need a closer check, so speed does not matter.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steps.tasks import Fault, as_found

# Larger than any usual row, and a Python literal of this size is still parsed quickly.
LITERAL_LIMIT = 1_000_000
SURROGATES = re.compile(r"[\ud800-\udfff]")
DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class Bounds:
    """Limits of a row; a file beyond them was written by mistake, or to exhaust memory."""

    max_row_mib: int = 64
    max_nesting: int = 64

    @property
    def longest(self) -> int:
        """Longest row, in bytes."""
        return self.max_row_mib << 20


@dataclass(frozen=True)
class Reading:
    """The explanation of a refused text."""

    fault: Fault | None
    """Why it cannot be used; None if `value` can be used."""
    value: Any = None
    """The value, if the text was JSON except for NaN and Infinity, which are floats in it."""
    unfinished: bool = False
    """The text ends in the middle; the next line shows whether the file was truncated or the row continues."""


def explain(raw: bytes, message: str, position: int, offset: int, bounds: Bounds) -> Reading:
    """Explain why orjson refused `raw`; `message` and `position` are orjson's, `offset` is where `raw` starts."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data" and error.end >= len(raw.rstrip())
        return Reading(not_utf8(raw, error.start, offset), unfinished=cut)
    if b"\0" in raw:
        return Reading(nul_byte(raw.index(b"\0"), offset))
    if message.startswith("depth limit") or deepest(raw) > bounds.max_nesting:
        return Reading(too_deep(deepest(raw), bounds))
    for find in (_surrogate, _not_finite, _glued, _comment, _trailing_comma, _python_repr):
        if reading := find(text, position):
            return reading
    end = raw.rstrip()
    # A file may be truncated inside a literal (`tru`) or an escape; the parser then reports that.
    cut = message == "unexpected end of data" or (position >= len(end) - 6 and not end.endswith(b"}"))
    found = f"{as_found(_around(raw, position))} ({message}, character {position + 1})"
    return Reading(Fault("DATA-E0201", "", found, "one JSON object", "correct the row"), unfinished=cut)


def not_utf8(raw: bytes, start: int, offset: int) -> Fault:
    """Return the fault of a byte that is not UTF-8, with the probable encoding."""
    byte = raw[start]
    if byte == 0xED and start + 1 < len(raw) and 0xA0 <= raw[start + 1] <= 0xBF:
        guess, fix = "half of a surrogate pair", "write the character itself as UTF-8"
    else:
        guess, fix = "looks like latin-1 or cp1252", "convert the file: iconv -f cp1252 -t utf-8"
    found = f"byte 0x{byte:02X} at offset {offset + start} ({guess})"
    return Fault("DATA-E0103", "", found, "UTF-8", fix)


def nul_byte(position: int, offset: int) -> Fault:
    """Return the fault of a NUL byte."""
    return Fault(
        "DATA-E0105", "", f"a NUL byte at offset {offset + position}", "text", "remove it; was the upload truncated?"
    )


def too_deep(depth: int, bounds: Bounds) -> Fault:
    """Return the fault of nesting that is too deep."""
    return Fault("DATA-E0211", "", f"nesting {depth} deep", f"at most {bounds.max_nesting}, max_nesting",
                 "flatten or remove the row, or raise max_nesting")  # fmt: skip


def deepest(raw: bytes) -> int:
    """Return the nesting depth of lists and objects, ignoring brackets inside strings."""
    depth = most = 0
    for bracket in re.findall(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', raw, re.DOTALL):
        if bracket in b"[{":
            depth += 1
            most = max(most, depth)
        elif bracket in b"]}":
            depth -= 1
    return most


def duplicate_key(raw: bytes) -> Fault | None:
    """Return the fault of the first key that an object has twice: its first value would be lost silently."""
    doubled: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(name for name, _ in pairs)
            doubled.append(next(name for name in counts if counts[name] > 1))
        return found

    json.loads(raw, object_pairs_hook=note)
    if not doubled:
        return None
    return Fault("DATA-E0209", doubled[0], f"the key {as_found(doubled[0])} twice in one object", "every key once",
                 "remove one of them")  # fmt: skip


def _surrogate(text: str, position: int) -> Reading | None:
    if not re.search(r"\\u[dD][89a-fA-F]", text):
        return None
    value = _loads(text)
    path = next(_paths_with_surrogates(value), None)
    if path is None:
        return None
    return Reading(
        Fault("DATA-E0210", path, f"half of a surrogate pair at character {position + 1}", "whole characters",
              "write the character itself, or both halves of its escape")
    )  # fmt: skip


def _not_finite(text: str, position: int) -> Reading | None:
    value = _loads(text)
    return Reading(None, value) if isinstance(value, dict) else None


def _loads(text: str) -> Any:
    """Parse with the standard library, which reads NaN and infinity; None if that fails too."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _paths_with_surrogates(value: Any, path: str = "") -> Iterator[str]:
    """Yield the paths of texts that hold one; of a name that does, the path of its object."""
    if isinstance(value, str) and SURROGATES.search(value):
        yield path
    elif isinstance(value, dict):
        for key, inner in value.items():
            if SURROGATES.search(key):
                yield path
            yield from _paths_with_surrogates(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths_with_surrogates(inner, f"{path}[{index}]")


def _glued(text: str, position: int) -> Reading | None:
    """Return the fault of a second value after the first."""
    rest, count = text.strip(), 0
    while rest:
        try:
            _, end = DECODER.raw_decode(rest)
        except (ValueError, RecursionError):
            break
        rest, count = rest[end:].lstrip(), count + 1
    if count > 1 and text.lstrip()[0] in "{[":
        return Reading(
            Fault("DATA-E0203", "", f"{count} objects on one line", "one JSON object on each line",
                  "put a line break between them")
        )  # fmt: skip
    if count == 1 and not rest.startswith(("//", "#", "/*")):
        return Reading(
            Fault("DATA-E0201", "", f"{as_found(rest[:60])} after the object", "one JSON object on each line",
                  "remove it")
        )  # fmt: skip
    return None


def _python_repr(text: str, position: int) -> Reading | None:
    literal = text.strip()
    if not literal.startswith(("{", "[")) or len(literal) > LITERAL_LIMIT:
        return None
    try:
        with warnings.catch_warnings(action="ignore"):  # about escapes that are invalid only in Python
            if not isinstance(ast.literal_eval(literal), dict | list):
                return None
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None
    return Reading(
        Fault("DATA-E0205", "", f"{as_found(literal)}, a Python literal", "JSON: double quotes, null, true, false",
              "write the rows with json.dumps")
    )  # fmt: skip


def _comment(text: str, position: int) -> Reading | None:
    stripped = text.strip()
    here = text.encode()[position : position + 2]
    if stripped.startswith(("//", "/*", "#")) or here in (b"//", b"/*") or here[:1] == b"#":
        return Reading(
            Fault("DATA-E0206", "", f"a comment: {as_found(stripped[:60])}", "JSON, which has no comments",
                  "remove the comment")
        )  # fmt: skip
    return None


def _trailing_comma(text: str, position: int) -> Reading | None:
    around = text.encode()[position:]
    if not re.match(rb",\s*[\]}]", around):
        return None
    return Reading(
        Fault("DATA-E0204", "", f"a comma before the closing bracket (character {position + 1})",
              "no comma after the last value", "remove the comma")
    )  # fmt: skip


def _around(raw: bytes, position: int) -> str:
    start = max(0, position - 20)
    return raw[start : position + 20].decode("utf-8", "replace").strip("\r\n")
