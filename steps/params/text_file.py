"""Read the content of a text file that a user names: its encoding, and JSON without repeated keys."""

import codecs
import json
from typing import Any

from steps.errors import Problem, UserError, shown

# Longer marks first: the mark of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SAVE_AS_UTF8 = "save the file as UTF-8"


def decoded(where: str, content: bytes) -> str:
    """Decode a text file: UTF-8, or the encoding of its byte order mark, which is removed.

    Raises UserError for any other encoding and for a file that is no text.
    """
    mark, encoding = next(((mark, name) for mark, name in MARKS if content.startswith(mark)), (b"", "utf-8"))
    body = content[len(mark) :]
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{body[error.start]:02X}, which is not {encoding.upper()}"
        raise _not_text(f"{where}:{line}", found) from None
    if "\0" not in text:
        return text
    wide = len(body) % 2 == 0 and len(body) > 3 and (not any(body[1:64:2]) or not any(body[:64:2]))
    raise _not_text(where, "UTF-16 without a byte order mark" if wide else "a zero byte, so it is not a text file")


def _not_text(where: str, found: str) -> UserError:
    return UserError(Problem("TEXT-E0101", where, found, "a text file in UTF-8", SAVE_AS_UTF8))


def read_json(text: str | bytes) -> Any:
    """Parse JSON. Raises ValueError, also for a key that is given twice, of which JSON readers keep only the last."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, one in pairs:
        if key in value:
            raise ValueError(f"the key {shown(key)} is given twice")
        value[key] = one
    return value
