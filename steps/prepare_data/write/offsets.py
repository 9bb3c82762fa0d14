"""Find the token of a character from the bytes of the tokens; rows for which this fails use the tokenizer's offsets.

Offsets cost the tokenizer a third more time. A token of a byte-level vocabulary is a known sequence of bytes, so if
the tokens of a row are its text byte for byte, their lengths give the start of each.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Span = tuple[int, int]
"""Start and end (exclusive) of characters in one text."""
UNKNOWN = b"\xff"  # not valid in UTF-8, so a token with unknown bytes never matches a text


def _bytes_of_characters() -> dict[int, int]:
    """Map the characters of a byte-level vocabulary to the bytes that they stand for (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + place: byte for place, byte in enumerate(others)}


BYTES = _bytes_of_characters()


class Spelling:
    """The bytes of each token of one tokenizer, looked up when a token first occurs."""

    def __init__(self, tokenizer: Any):
        backend = tokenizer.backend_tokenizer
        self._token = backend.id_to_token
        self._added = {number: token.content.encode() for number, token in tokenizer.added_tokens_decoder.items()}
        size = max([backend.get_vocab_size(with_added_tokens=True), *(number + 1 for number in self._added)])
        self._bytes: list[bytes] = [b""] * size
        self._lengths = np.zeros(size, np.int64)
        self.trims = b'"trim_offsets":true' in _state(backend.post_processor)
        """Whether the tokenizer's own offsets exclude blanks."""

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        """Return the number of bytes of each token."""
        met = np.flatnonzero(np.bincount(ids))
        for number in met[self._lengths[met] == 0].tolist():
            self._bytes[number] = self._spell(number)
            self._lengths[number] = len(self._bytes[number])
        return self._lengths[ids]

    def spells(self, ids: list[int], text: str) -> bool:
        """Return whether tokens are the text byte for byte; `lengths` must have been called with these tokens."""
        return b"".join(map(self._bytes.__getitem__, ids)) == text.encode("utf-8", "surrogatepass")

    def _spell(self, number: int) -> bytes:
        if number in self._added:
            return self._added[number] or UNKNOWN
        try:
            return bytes(BYTES[ord(character)] for character in self._token(number) or "") or UNKNOWN
        except KeyError:
            return UNKNOWN


@lru_cache(maxsize=4)
def spelling(tokenizer: Any) -> Spelling | None:
    """Return the bytes of a tokenizer's tokens; None if it has no byte-level vocabulary."""
    if b'"ByteLevel"' not in _state(tokenizer.backend_tokenizer.pre_tokenizer):
        return None
    return Spelling(tokenizer)


def mark(
    learned: np.ndarray, known: Spelling, rows: list[list[int]], ids: np.ndarray, texts: list[str],
    spans: list[list[Span]],
) -> list[int]:  # fmt: skip
    """Set `learned` (a bool for each token of all rows) for the tokens of each row's spans.

    Returns the rows that were not changed, because their tokens are not their text byte for byte or because the
    tokenizer's own offsets might differ for their spans.
    """
    row_starts = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
    byte_starts = np.concatenate(([0], np.cumsum(known.lengths(ids))))
    left: list[int] = []
    places: list[tuple[int, int, int]] = []
    for row, (numbers, text) in enumerate(zip(rows, texts, strict=True)):
        if any(_is_odd(text, span, known.trims) for span in spans[row]) or not known.spells(numbers, text):
            left.append(row)
        elif text.isascii():
            places += [(row, first, end - 1) for first, end in spans[row]]
        else:
            places += [(row, len(text[:first].encode()), len(text[: end - 1].encode())) for first, end in spans[row]]
    if places:
        in_row, first_byte, last_byte = np.array(places, np.int64).T
        base = byte_starts[row_starts[in_row]]
        first = np.searchsorted(byte_starts, base + first_byte, "right") - 1
        last = np.searchsorted(byte_starts, base + last_byte, "right") - 1
        # transformers treats a last token with index 0 as missing, and marks up to the end of the row.
        end = np.where(last == row_starts[in_row], row_starts[in_row + 1], last + 1)
        for start, stop in zip(first.tolist(), end.tolist(), strict=True):
            learned[start:stop] = True
    return left


def _is_odd(text: str, span: Span, trims: bool) -> bool:
    first, end = span
    return end <= first or (trims and (text[first].isspace() or text[end - 1].isspace()))


def _state(part: Any) -> bytes:
    return part.__getstate__() if part is not None else b""
