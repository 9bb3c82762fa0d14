"""Truncate long texts inside prompts: the text loses its end; the rest of the prompt and the answer stay.

summarize: The council met … and went home.⏎A bridge will be built.   (too long)
summarize: The council met⏎A bridge will be built.                    (fits)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from steps.prepare_data.write.tokenising import Tokens, tokenise


def fit_texts(
    tokenizer: Any, rows: list[dict[str, Any]], form: tuple[str, str], limit: int, completions_only: bool
) -> Tokens:
    """Tokenise rows {prompt, completion}, with texts truncated so that each row has at most `limit` tokens.

    `form` is the prompt's text before and after the row's text. A row whose answer alone is too long loses all of its
    text and is still too long. Needs a fast tokenizer, for the offsets of tokens.
    """
    before, after = form
    texts = [row["prompt"][len(before) : len(row["prompt"]) - len(after)] for row in rows]
    ends = [_ends(tokenizer, text) for text in texts]
    left = np.array([len(row) for row in ends])
    while True:
        kept = [text[: row[count - 1]] if count else "" for text, row, count in zip(texts, ends, left, strict=True)]
        short = [{**row, "prompt": before + text + after} for row, text in zip(rows, kept, strict=True)]
        tokens = tokenise(tokenizer, short, completions_only, None)
        over = np.minimum(np.maximum(tokens.lengths - limit, 0), left)
        if not over.any():
            return tokens
        left -= over  # repeat if tokens merged across the new boundary


def _ends(tokenizer: Any, text: str) -> list[int]:
    """Return the end offset of each token of a text, in characters."""
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [end for _, end in places]
