"""Read the content of a text file that a user names: its encoding, and JSON without repeated keys."""

import codecs
import json
import re
from typing import Any

from steps.errors import Problem, UserError, shown

DEEPEST = 100  # levels; what Python does with deeper values may end in a RecursionError
MOST_VALUES = 20_000  # names and values in YAML, which takes PyYAML seconds

# Longer marks first: the mark of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Numbers in YAML that nothing can compute with, and that Python does not even write.
LONG_NUMBER = re.compile(r"[-+]?[0-9][0-9a-fA-Fxob_:.]{300,}")
TOO_DEEP = f"values that are nested too deeply, in more than {DEEPEST} levels"
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
    return any_json(text, object_pairs_hook=_once)


def any_json(text: str | bytes, **how: Any) -> Any:
    """Parse JSON that anybody may have written. Raises ValueError, also for values that are nested too deep."""
    try:
        value = json.loads(text, **how)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [one for several in inner for one in several if isinstance(one, dict | list)]
        if not level:
            return value
    raise ValueError(TOO_DEEP)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, one in pairs:
        if key in value:
            raise ValueError(f"the key {shown(key)} is given twice")
        value[key] = one
    return value
