"""Load a tokenizer for generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_tokenizer(folder: Path) -> Any:
    """Load a model's tokenizer with left padding, as generation requires."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
