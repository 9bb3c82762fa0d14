"""Long texts whose answers must stay: the text loses its end, not what stands around it, nor the answer.

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
    """Tokenise rows {prompt, completion}, their texts cut so that each has at most `limit` tokens.

    `form` is what stands before and after the text of a prompt. A row whose answer alone is too long keeps none of its
    text and is still too long. Needs a fast tokenizer, which knows where a token ends.
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
        left -= over  # once more where tokens joined across the seam


def _ends(tokenizer: Any, text: str) -> list[int]:
    """Return the character behind each token of a text."""
    places = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return [end for _, end in places]
