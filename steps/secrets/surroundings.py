"""Secrets that are known by a word some way before them: a command, a client, the other half of a pair.

`curl -u me:…`, `HTTPBasicAuth("me", "…")`, an AWS access key with the secret one behind it, a line of a `.netrc`. As in
`credentials.py`, words are found by fixed strings, and each expression reads no more than a fixed number of characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from steps.secrets.credentials import HIDDEN, Part, is_mixed

# Word, in small letters → what is read from there; the secret is a group of it.
_AFTER = {
    "machine": r"machine[\s|]{1,9}\S{1,100}[\s|]{1,40}(?:login|user)\s{1,9}\S{1,80}[\s|]{1,40}passw(?:or)?d\s{1,9}"
               r"(?P<secret>[^\s\"'\\]{1,200})",
    "akia": r"AKIA[A-Z0-9]{16}\W{1,8}(?P<secret>[A-Za-z0-9/+]{8,40})(?![A-Za-z0-9/+])",
    "asia": r"ASIA[A-Z0-9]{16}\W{1,8}(?P<secret>[A-Za-z0-9/+]{8,40})(?![A-Za-z0-9/+])",
    "wandb": r"(?i:wandb)[\w.:('\"= \t-]{1,30}?(?<![0-9a-f])(?P<secret>[0-9a-f]{16,40})(?![0-9a-f])",
    "account.key.": r".{12}[\w.-]{1,100}[\"']?\s{0,3}[=:,]\s{0,3}[\"']?(?P<secret>[A-Za-z0-9+/]{8,200}={0,2})",
    "key-data": r".{8}[\"']?:\s{0,4}[\"']?(?P<secret>[A-Za-z0-9+/]{8,9000}={0,2})",
    "private-lines:": r".{14}\s{0,4}\d{1,4}[\s|]{1,9}(?P<secret>(?:[A-Za-z0-9+/=]{8,200}+[\s|]{0,9}){1,99})",
}  # fmt: skip
_PATTERNS = {word: re.compile(pattern) for word, pattern in _AFTER.items()}
_USERS = ("-u", "--user")
_USER = re.compile(r"""(?:-u|--user)(?:[ =]{1,2}|["'],[ ]?)["']?[\w.@-]{1,60}:(?P<secret>[^\s"'\\]{1,200})""")
_CALLS = ("auth", "credential")
_CALL = re.compile(
    r"""(?:auth|credentials?)["']?\s{0,2}[=:]?\s{0,2}[(\[](?P<arguments>[^()\[\]\n]{0,300})""", re.IGNORECASE
)
_LATER = re.compile(r"""(?<=,)\s{0,2}[bru]{0,2}["'](?P<secret>[^"'\n…]{1,200})(?:["'…]|\Z)""")


def surrounded(text: str, small: str) -> Iterator[Part]:
    """Yield secrets by the words before them; `small` has small letters only."""
    for word, pattern in _PATTERNS.items():
        for found in _matches(pattern, text, small, word):
            if word == "machine" or is_mixed(found["secret"]):
                yield *found.span("secret"), HIDDEN
    for word in _USERS:
        for found in _matches(_USER, text, small, word):
            before = text[max(0, found.start() - 1) : found.start()]
            if is_mixed(found["secret"]) and (not before or before in " \t\n\"'"):
                yield *found.span("secret"), HIDDEN
    for word in _CALLS:
        for found in _matches(_CALL, text, small, word):
            for argument in _LATER.finditer(text, *found.span("arguments")):
                if is_mixed(argument["secret"]):
                    yield *argument.span("secret"), HIDDEN


def _matches(pattern: re.Pattern[str], text: str, small: str, word: str) -> Iterator[re.Match[str]]:
    place = small.find(word)
    while place >= 0:
        found = pattern.match(text, place)
        if found:
            yield found
        place = small.find(word, max(place + len(word), found.end() if found else 0))
