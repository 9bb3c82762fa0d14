"""The tokenizer for token classification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError


def load_word_tokenizer(folder: Path) -> Any:
    """Load a tokenizer for texts given as lists of words; pads with the end token if there is no padding token.

    Byte-level BPE tokenizers (GPT-2, RoBERTa) are loaded with add_prefix_space, as words inside a text follow a space.
    Raises UserError for a slow tokenizer, which cannot map tokens to words.
    """
    from transformers import AutoTokenizer

    where = str(folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(where, local_files_only=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise UserError(
            Problem("DATA-E0816", "tokenizer", "a tokenizer without tokenizer.json", "a fast tokenizer, which maps "
                    "tokens to words", "save the fast tokenizer beside the model")
        )  # fmt: skip
    if getattr(tokenizer, "add_prefix_space", None) is False:
        tokenizer = AutoTokenizer.from_pretrained(where, local_files_only=True, add_prefix_space=True)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
