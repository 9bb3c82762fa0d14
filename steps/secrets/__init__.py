"""What counts as a secret, and texts without secrets.

Parameters are public (YAML, logs, the tracking server), so a value that looks like a secret is refused (`secret_in`).
Messages and stored files are read by more people than the data, so secrets, and parts of them, are removed
(`without_secrets`). Whatever a process prints, and every error, is without them as well, but with e-mail addresses,
which also stand in paths (`without_credentials`). Rows are scanned for complete secrets
(`steps/prepare_data/check/secret_scan.py`).

A secret is known by its form (`kinds.py`), by what stands before it (`credentials.py`, `surroundings.py`), or because
a variable of the environment holds it (`variables.py`). All are looked for in the text, and in the text as it reads
without escapes (`escapes.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from steps.secrets.credentials import HIDDEN as HIDDEN
from steps.secrets.credentials import Part, headers, named, private_keys, small_letters, user_in_uri
from steps.secrets.credentials import names_secret as names_secret
from steps.secrets.escapes import on_one_line, unescaped
from steps.secrets.kinds import SECRETS as SECRETS
from steps.secrets.surroundings import surrounded
from steps.secrets.variables import secret_values

# A user in a URI, with or without a password.
USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")

_HAVE_PARTS = [
    (lead, one, re.compile(one.part), re.compile(one.told)) for one in SECRETS if one.part for lead in one.leads
]
_HAVE_LENGTHS = [(lead, one, part) for lead, one, part, _ in _HAVE_PARTS if one.length]
_LOCAL = re.compile(r"[\w.+-]{1,100}")
_DOMAIN = re.compile(r"[\w-]+\.[\w.-]+")


def _alone(pattern: str) -> str:
    """Require a word boundary before the pattern, unless it starts with "-" or ":"."""
    return pattern if pattern[0] in "-:([" else rf"\b{pattern}"


_REFUSED = [(one.kind, re.compile(_alone(one.sure or one.whole))) for one in SECRETS if one.whole]


def secret_in(value: object) -> str:
    """Return the kind of secret that a value contains; empty if it contains none."""
    text = str(value)
    return next((kind for kind, pattern in _REFUSED if pattern.search(text)), "")


def without_credentials(text: str) -> str:
    """Remove secrets and the passwords in URIs from a text that leaves the process; paths and addresses stay."""
    return without_parts(text, list(hidden_parts(text, strict=False)))


def without_secrets(text: str) -> str:
    """Remove secrets, parts of them, users in URIs and e-mail addresses from a text to be shown or stored."""
    return without_parts(text, [*hidden_parts(text, strict=True), *_addresses(text)])


def hidden_parts(text: str, strict: bool) -> Iterator[Part]:
    """Yield the parts of a text that nobody may read, in any order; they may overlap."""
    values = secret_values()
    yield from _found(text, values, strict)
    for steps in unescaped(text):
        for start, end, instead in _found(steps[0].text, values, strict):
            for view in steps:
                start, end = view.before(start, end)
            yield start, end, instead.strip('"')  # quotation marks have another form here
    if joined := on_one_line(text) if values or any(row[0] in text for row in _HAVE_LENGTHS) else None:
        for start, end in [*_equal(joined.text, values), *_complete(joined.text)]:
            if joined.crosses(start, end):
                yield *joined.before(start, end), HIDDEN


def _found(text: str, values: tuple[str, ...], strict: bool) -> Iterator[Part]:
    small = small_letters(text)
    yield from user_in_uri(text, strict)
    yield from private_keys(text)
    for start, end in [*_equal(text, values), *_formed(text, strict)]:
        yield start, end, HIDDEN
    yield from named(text, small)
    yield from headers(text, small)
    yield from surrounded(text, small)


def _formed(text: str, strict: bool) -> Iterator[tuple[int, int]]:
    """Yield the secrets that have a form of their own."""
    for _, one, part, told in [row for row in _HAVE_PARTS if row[0] in text]:
        for found in part.finditer(text):
            before = text[max(0, found.start() - 1) : found.start()]
            known = strict or not one.apart or not (before.isalnum() or before in ("+", "/"))
            if known and ((strict and one.kind != "a JSON web token") or told.match(found[0])):
                yield found.span()


def _complete(text: str) -> Iterator[tuple[int, int]]:
    """Yield the secrets that have their full length."""
    for _, one, part in [row for row in _HAVE_LENGTHS if row[0] in text]:
        yield from (found.span() for found in part.finditer(text) if len(found[0]) == one.length)


def _equal(text: str, values: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Yield where one of the values stands."""
    for value in values:
        place = text.find(value)
        while place >= 0:
            yield place, place + len(value)
            place = text.find(value, place + len(value))


def _addresses(text: str) -> Iterator[Part]:
    """Yield e-mail addresses."""
    place = text.find("@")
    while place >= 0:
        local = _LOCAL.match(text[max(0, place - 100) : place][::-1])
        domain = _DOMAIN.match(text, place + 1)
        if local and domain:
            yield place - len(local[0]), domain.end(), HIDDEN
        place = text.find("@", place + 1)


def without_parts(text: str, parts: list[Part]) -> str:
    """Replace parts of a text; those that overlap are one, which gets what stands for the first of them."""
    if not parts:
        return text
    kept: list[str] = []
    last = 0
    for start, end, instead in sorted(parts, key=lambda part: (part[0], -part[1])):
        while end > start and text[end - 1] == "\\":  # it belongs to the quotation mark behind it
            end -= 1
        if start >= last and end > start:
            kept += [text[last:start], instead]
        last = max(last, end)
    return "".join([*kept, text[last:]])
