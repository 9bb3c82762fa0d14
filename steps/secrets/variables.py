"""The values of environment variables that hold secrets by their names, such as AWS_SECRET_ACCESS_KEY.

Such a value may have no known form, so it is looked for as it is.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

SHORTEST = 8  # characters; shorter values are found in words
SHORTEST_WORD = 12  # of letters of one kind, or of digits only: "password" is no value that may vanish from all texts
SHORTEST_LINE = 20  # of a value with several lines
_SECRET = re.compile(
    r"(?:TOKEN|PASSWORD|PASSWD|PASSPHRASE|SECRET|APIKEY|CREDENTIALS?|CONNECTION_STRING"
    r"|(?:^|_)(?:KEY|PASS|PAT|SAS|AUTH|COOKIE|DSN)|[A-Z]_PWD)(?:_(?:ID|VALUE|JSON|B64|BASE64|\d+))?$"
)
_PASSWORD = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
_WORD = re.compile(r"[a-z]+|[A-Z][a-z]*|[A-Z]+|\d+")
_TOLD = ("HOME", "PWD", "USER", "LOGNAME", "HOSTNAME")  # they are part of many paths
_PLACE = re.compile(r"\.{1,2}/|/[a-z-]+(?:/|$)|~|file:|[A-Za-z]:\\")  # how the name of a file begins


def secret_values() -> tuple[str, ...]:
    """Return what the environment's secrets are, with the passwords in its URIs; the longest first."""
    # The mapping itself would encode and decode every variable again for every line that is printed.
    raw: Mapping[bytes, bytes] = getattr(os.environ, "_data", os.environb)
    return _values(tuple(raw.items()))


@lru_cache(4)
def _values(variables: tuple[tuple[bytes, bytes], ...]) -> tuple[str, ...]:
    found: set[str] = set()
    for name, value in ((os.fsdecode(name), os.fsdecode(value)) for name, value in variables):
        found |= {form for password in _PASSWORD.findall(value) for form in (password, unquote(password))}
        if _SECRET.search(name.upper()):
            lines = value.split("\n")
            found |= {value.strip()} if len(lines) == 1 else {line for line in lines if len(line) >= SHORTEST_LINE}
    known = " ".join(os.environ.get(name, "") for name in _TOLD)
    found = {value for value in found if _is_rare(value) and value not in known}
    coded = {base64.b64encode(value.encode("utf-8", "surrogateescape")).decode().rstrip("=") for value in found}
    return tuple(sorted(found | coded, key=len, reverse=True))


def _is_rare(value: str) -> bool:
    """Return whether a value stands in no text by chance, and names no file."""
    if len(value) < SHORTEST or _PLACE.match(value):
        return False
    return len(value) >= SHORTEST_WORD or not _WORD.fullmatch(value)
