"""Find the token of a character from the bytes of the tokens; rows for which this fails use the tokenizer's offsets.

Offsets cost the tokenizer a third more time. A token of a byte-level vocabulary is a known sequence of bytes, so if
the tokens of a row are its text byte for byte, their lengths give the start of each.

Both ways differ from transformers 5.17 and TRL 1.16 (`char_to_token` of the first and the last character) where these
learn the rest of the row: if the last character is a blank that the tokenizer leaves out of its offsets, or if the
answer's last token is the row's first one. They also miss the last tokens of a character of several tokens.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
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

    Returns the rows that were not changed, because their tokens are not their text byte for byte.
    """
    row_starts = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
    byte_starts = np.concatenate(([0], np.cumsum(known.lengths(ids))))
    left: list[int] = []
    places: list[tuple[int, int, int]] = []
    for row, (numbers, text) in enumerate(zip(rows, texts, strict=True)):
        if not known.spells(numbers, text):
            left.append(row)
        elif text.isascii():
            places += [(row, first, end) for first, end in spans[row] if first < end]
        else:
            ends = [(len(text[:first].encode()), len(text[:end].encode())) for first, end in spans[row] if first < end]
            places += [(row, first, end) for first, end in ends]
    if places:
        in_row, first_byte, end_byte = np.array(places, np.int64).T
        base = byte_starts[row_starts[in_row]]
        # A character may consist of several tokens: the last one is that of its last byte.
        first = np.searchsorted(byte_starts, base + first_byte, "right") - 1
        stop = np.searchsorted(byte_starts, base + end_byte, "left")
        beyond = (byte_starts[first] < base + first_byte) | (byte_starts[stop] > base + end_byte)
        for place in np.flatnonzero(beyond).tolist():
            row, start = places[place][0], base[place]
            bounds = (byte_starts[first[place] : stop[place] + 1] - start).tolist()
            inner = _within(list(pairwise(bounds)), texts[row].encode(), *places[place][1:])
            first[place], stop[place] = first[place] + inner.start, first[place] + inner.stop
        for start, end in zip(first.tolist(), stop.tolist(), strict=True):
            learned[start:end] = True
    return left


def ranges_of(offsets: list[Span], text: str, spans: list[Span]) -> list[range]:
    """Return the tokens of each span of a text, by the tokenizer's own offsets of all tokens of the text.

    Some tokenizers leave blanks out of their offsets; such a blank belongs to the token after it.
    """
    if not offsets or not spans:
        return []
    starts, ends = np.array(offsets, np.int64).T
    before = np.concatenate(([0], np.maximum.accumulate(ends)[:-1]))
    for token in np.flatnonzero(starts > before).tolist():
        if text[before[token] : starts[token]].isspace():
            starts[token] = before[token]
    ranges = []
    for first, end in spans:
        inside = np.flatnonzero((starts < end) & (ends > first) & (first < end))
        if len(inside):
            low, high = int(inside[0]), int(inside[-1]) + 1
            places = zip(starts[low:high].tolist(), ends[low:high].tolist(), strict=True)
            inner = _within(list(places), text, first, end)
            ranges.append(range(low + inner.start, low + inner.stop))
    return ranges


def _within(places: list[Span], text: str | bytes, first: int, end: int) -> range:
    """Leave out the outer tokens of a span that belong to the text around it.

    A token that is partly outside belongs to the span if it has more than blanks of it, or only blanks outside.
    `places` are the tokens' starts and ends in `text`, `first` and `end` those of the span.
    """

    def belongs(token: int) -> bool:
        start, stop = places[token]
        inside = text[max(start, first) : min(stop, end)]
        outside = (text[start:first], text[end:stop])
        return not _is_blank(inside) or all(map(_is_blank, outside))

    begin, stop = 0, len(places)
    while begin < stop and not belongs(begin):
        begin += 1
    while begin < stop and not belongs(stop - 1):
        stop -= 1
    return range(begin, stop)


def _is_blank(part: str | bytes) -> bool:
    """Return whether a part of a text is empty or white space; half a character is neither."""
    return not (part.decode(errors="replace") if isinstance(part, bytes) else part).strip()


def _state(part: Any) -> bytes:
    return part.__getstate__() if part is not None else b""
