"""Extract the rows of a .json file that is an object: {"data": [row, …], …}.

The list is copied and everything around it replaced by blanks, so that every row keeps its line and offset.
"""

from __future__ import annotations

import mmap
import re
from pathlib import Path

import orjson

from steps.errors import Problem, UserError, nearest
from steps.tasks import as_found

TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},:]', re.DOTALL)
PIECE = 1024 * 1024
NOT_LINE_END = bytes(10 if code == 10 else 32 for code in range(256))  # every byte but \n becomes a blank


def take_field(file: Path, name: str, field: str, target: Path) -> Path:
    """Copy the list under `field` to `target`; a file that is not an object is returned unchanged.

    Raises UserError if there is no such list. `name` is the file as the user wrote it.
    """
    if not file.stat().st_size:
        return file
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if not data[:PIECE].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return file
        start, end, keys = _find(data, field)
        if start < 0:
            found = f"the keys {as_found(', '.join(keys))}" if keys else "no key"
            near = nearest(field, keys)
            raise UserError(
                Problem("DATA-E0213", name, found, f"a list under {field!r}, json_field",
                        f"{near} Set json_field to the key of a list".strip())
            )  # fmt: skip
        with open(target, "wb") as out:
            for place in range(0, start, PIECE):
                out.write(data[place : min(place + PIECE, start)].translate(NOT_LINE_END))
            for place in range(start, end, PIECE):
                out.write(data[place : min(place + PIECE, end)])
    return target


def _find(data: mmap.mmap, field: str) -> tuple[int, int, list[str]]:
    """Return start and end of the list under a top-level key (-1 if missing), and the keys read until there."""
    depth, key, start = 0, "", -1
    keys: list[str] = []
    last = b""
    for match in TOKEN.finditer(data):
        token = match.group()
        if token in b"[{":
            if depth == 1 and token == b"[" and last == b":" and key == field:
                start = match.start()
            depth += 1
        elif token in b"]}":
            depth -= 1
            if depth == 1 and start >= 0:
                return start, match.end(), keys
        elif token == b":" and depth == 1 and last[:1] == b'"':
            key = _text(last)
            keys.append(key)
        last = token
    return (start, len(data), keys) if start >= 0 else (-1, -1, keys)  # a truncated list is reported at its end


def _text(token: bytes) -> str:
    try:
        return str(orjson.loads(token))
    except orjson.JSONDecodeError:
        return token.decode("utf-8", "replace")
