"""Convert generated tokens to texts; only end and padding tokens are left out.

An answer may consist of special tokens, such as those of additional_special_tokens, so they are not skipped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import dropwhile, takewhile
from typing import Any


def answer_texts(
    tokenizer: Any, rows: Iterable[Iterable[int]], ends: Collection[int] | None, opening: Collection[int] = ()
) -> list[str]:
    """Decode the answer of each row of generated tokens; the arguments are those of `answer_tokens`."""
    kept = [answer_tokens(row, ends or (), tokenizer.pad_token_id, opening) for row in rows]
    return list(tokenizer.batch_decode(kept, skip_special_tokens=False))


def answer_tokens(
    row: Iterable[int], ends: Collection[int], padding: int | None, opening: Collection[int] = ()
) -> list[int]:
    """Return the tokens up to the first end token, without padding and without those of `opening` at the start."""
    begun = dropwhile(lambda token: token in opening, row)
    return [token for token in takewhile(lambda token: token not in ends, begun) if token != padding]
