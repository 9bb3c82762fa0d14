"""A separate reference model for preference training: it must have the same tokens as the tuned model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from steps.adapters.layout import largest_token
from steps.errors import Problem
from steps.models.layout import VOCABULARIES, ModelLayout
from steps.models.token_files import TOKENIZER
from steps.sources.model_files import ModelFiles


def tokenizer_problems(
    files: ModelFiles, layout: ModelLayout, ours: ModelFiles, our_files: Mapping[str, str]
) -> Iterator[Problem]:
    """Yield problems of the reference's tokenizer; `our_files` are the tuned model's tokenizer files, name → path."""
    if TOKENIZER in layout.tokenizer_files and TOKENIZER in our_files:
        theirs, mine = files.read(layout.tokenizer_files[TOKENIZER]), ours.read(our_files[TOKENIZER])
        same = _tokens(theirs) == _tokens(mine)
        size = layout.config.get("vocab_size")
        if same and size and largest_token(theirs) >= size:
            yield Problem("PLAN-E0356", files.parameter, f"{size} embeddings for {largest_token(theirs) + 1} tokens",
                          "an embedding for every token", "name a complete model")  # fmt: skip
    else:
        vocabularies = sorted(VOCABULARIES & {*layout.tokenizer_files, *our_files})
        same = all(
            name in layout.tokenizer_files
            and name in our_files
            and files.read(layout.tokenizer_files[name]) == ours.read(our_files[name])
            for name in vocabularies
        )
    if not same:
        yield Problem("PLAN-E0356", files.parameter, f"{files.uri}, whose tokenizer has other tokens",
                      "the tokenizer of the tuned model", "name a model of the same family, or leave it out",
                      why="both models score the same tokens")  # fmt: skip


def _tokens(tokenizer: bytes) -> dict[str, Any]:
    """Return what determines the tokens: vocabulary, merges, added tokens, pre-tokenizer and normalizer."""
    parsed = json.loads(tokenizer)
    model = parsed.get("model") or {}
    added = [(token["id"], token["content"]) for token in parsed.get("added_tokens") or []]
    kept = {key: model.get(key) for key in ("type", "vocab", "merges")}
    return {**kept, "added": sorted(added), "split": parsed.get("pre_tokenizer"), "changed": parsed.get("normalizer")}
