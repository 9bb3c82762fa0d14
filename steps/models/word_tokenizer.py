"""The tokenizer of a model that tags words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError


def load_word_tokenizer(folder: Path) -> Any:
    """Load a tokenizer for texts that come as lists of words; pads with the end token if it has none.

    Tokenizers of GPT-2's and RoBERTa's kind are told to put a space before each word, as there is one inside a text.
    Raises UserError for a tokenizer that cannot say which token belongs to which word.
    """
    from transformers import AutoTokenizer

    where = str(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(where, local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise UserError(
            Problem("DATA-E0816", "tokenizer", "a tokenizer without tokenizer.json", "a fast tokenizer, which knows "
                    "the word of each token", "save the fast tokenizer beside the model")
        )  # fmt: skip
    if getattr(tokenizer, "add_prefix_space", None) is False:
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True, add_prefix_space=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
