"""Tokenizer and language codes of an encoder-decoder model.

Multilingual models read a code for the source language with the text, and the answer begins with the code of the
target language: as the first generated token (M2M100, NLLB, mBART-50), or as the decoder's start token (mBART).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError, nearest

CODE = re.compile(r"[a-z]{2,3}_[A-Za-z]{2,4}")  # en_XX, eng_Latn


@dataclass(frozen=True)
class Languages:
    """Source and target language, as the tokenizer's codes."""

    source: str
    target: str


def load_tokenizer(folder: Path, languages: Languages | None = None) -> Any:
    """Load a tokenizer, with its languages if it has language codes. Raises UserError when sentencepiece is missing."""
    from transformers import AutoTokenizer

    codes = {"src_lang": languages.source, "tgt_lang": languages.target} if languages else {}
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **codes)
    except (ImportError, ValueError) as error:
        if "sentencepiece" not in str(error).lower():
            raise
        raise UserError(
            Problem("DATA-E0818", "tokenizer", "a tokenizer that needs the package sentencepiece",
                    "tokenizer.json, which does not need it",
                    "save the fast tokenizer beside the model, or use an image with sentencepiece")
        ) from None  # fmt: skip


def find_languages(tokenizer: Any, source: tuple[str, str], target: tuple[str, str]) -> Languages | None:
    """Find a tokenizer's codes for two languages, given as parameter and value; None if it has no language codes.

    "en" matches en_XX. Raises UserError with all languages that are unknown or ambiguous.
    """
    if not hasattr(tokenizer, "src_lang"):
        return None
    known = getattr(tokenizer, "lang_code_to_id", None) or filter(CODE.fullmatch, tokenizer.all_special_tokens)
    codes = list(known)
    found, problems = [], []
    for parameter, language in dict.fromkeys((source, target)):
        fitting = [code for code in codes if code == language] or [c for c in codes if c.startswith(f"{language}_")]
        found += fitting[:1]
        if len(fitting) != 1:
            several = f"one of {', '.join(fitting)}" if fitting else f"one of {', '.join(codes)[:200]} …"
            problems.append(
                Problem("DATA-E0819", parameter, f"{language}, which the model does not know", several,
                        nearest(language, codes) or f"set {parameter} to the model's own code")
            )  # fmt: skip
    if problems:
        raise UserError(problems)
    return Languages(found[0], found[-1])


def opening_of(tokenizer: Any, languages: Languages | None) -> dict[str, int]:
    """Return the generation settings that start an answer in the target language; empty without languages."""
    if languages is None:
        return {}
    codes = getattr(tokenizer, "lang_code_to_id", None) or {}
    code = codes.get(languages.target, tokenizer.convert_tokens_to_ids(languages.target))
    first = tokenizer(text_target="", return_attention_mask=False)["input_ids"][0] == code
    return {"forced_bos_token_id" if first else "decoder_start_token_id": int(code)}
