"""Tokens of a tokenizer or a configuration for which the model has no embedding; using one ends a training.

Some models have more tokens than embeddings, and never use the others (Gemma 3 has a token for images), so only those
with a role are looked at here; `steps/prepare_data/` looks at the tokens of the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from steps.errors import Problem
from steps.models.tokenizer_files import TokenizerFiles

NAMED = (
    "pad_token_id", "bos_token_id", "eos_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id",
    "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id",
)  # fmt: skip
FIX = (
    "give the model a row for it: model.resize_token_embeddings(len(tokenizer)) and save both again; or name a token "
    "that the model has"
)


def role_problems(parameter: str, tokenizer: TokenizerFiles, rows: int, roles: Iterable[str]) -> Iterator[Problem]:
    """Yield a problem for every role of a tokenizer whose token has no embedding.

    `rows` is the number of embeddings. Raises ValueError as `TokenizerFiles.number_of`.
    """
    for role in roles:
        token = tokenizer.named(role)
        number = tokenizer.number_of(token) if token else None
        if number is not None and number >= rows:
            yield Problem("MODEL-E0133", f"{parameter}: {role}", f"{token} with the number {number}",
                          f"a number below {rows}, the model's vocab_size", FIX)  # fmt: skip


def named_problems(parameter: str, file: str, config: Mapping[str, Any], rows: int) -> Iterator[Problem]:
    """Yield a problem for every token id of config.json or generation_config.json that has no embedding."""
    for name in NAMED:
        told = config.get(name)
        beyond = [one for one in (told if isinstance(told, list) else [told]) if type(one) is int and one >= rows]
        if beyond:
            yield Problem("MODEL-E0134", f"{parameter}: {file} {name}", str(beyond[0]),
                          f"a number below {rows}, the model's vocab_size", "correct the file")  # fmt: skip
