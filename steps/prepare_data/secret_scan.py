"""Counts rows that hold strings like keys: what a model learns it may say to anybody.

A block of bytes is first searched for a few fixed words, which costs next to nothing; only where one stands is looked
at closely. A value that was found is never given out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

CODE, WHAT = "DATA-W0104", "key-like strings; remove the keys from the data and revoke them"

# What every key of a kind holds.
FIXED = (b"hf_", b"sk-", b"AKIA", b"ASIA", b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_", b"github_pat_", b"glpat-",
         b"xox", b"AIza", b"PRIVATE KEY-----")  # fmt: skip
KEYS = re.compile(
    rb"(?:(?<![A-Za-z0-9_-])|(?<=\\[nrtbf])|(?<=\\u[0-9A-Fa-f]{4}))"  # not inside a word, but behind JSON's escapes
    rb"(?:"
    rb"hf_[A-Za-z0-9]{30,}"  # Hugging Face
    rb"|sk-(?:[a-z]+-){0,3}(?=[A-Za-z_-]*[0-9])[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic and others
    rb"|(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])"  # Amazon
    rb"|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|glpat-[A-Za-z0-9_-]{20,}"  # GitHub, GitLab
    rb"|xox[abprs]-[A-Za-z0-9-]{20,}|AIza[A-Za-z0-9_-]{35}"  # Slack, Google
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----)"
)


def may_hold_secrets(block: bytes) -> bool:
    """Say quickly whether a block of any size is worth a closer look; False means that it holds no key."""
    return any(word in block for word in FIXED)


def count_secrets(block: bytes) -> int:
    """Count the key-like strings in a block."""
    return sum(1 for _ in KEYS.finditer(block)) if may_hold_secrets(block) else 0


def rows_with_secrets(rows: Iterable[bytes | str]) -> Iterator[int]:
    """Yield the positions, from 0, of the rows that hold a key-like string; a row is the raw line or its text."""
    for position, row in enumerate(rows):
        raw = row.encode("utf-8", "surrogatepass") if type(row) is str else row
        assert isinstance(raw, bytes)
        if may_hold_secrets(raw) and KEYS.search(raw):
            yield position


def lines_with_secrets(block: bytes) -> Iterator[int]:
    r"""Yield the positions, from 0, of the lines of a block that hold a key-like string; lines end in `\n`."""
    if not may_hold_secrets(block):
        return
    line, counted, last = 0, 0, -1
    for found in KEYS.finditer(block):
        line, counted = line + block.count(b"\n", counted, found.start()), found.start()
        if line != last:
            yield line
        last = line
