"""Check that the model has an embedding for every token that has a role."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steps.errors import Problem
from steps.models.layout import CONFIG, GENERATION, read_json, vocabulary_rows
from steps.models.token_range import named_problems, role_problems
from steps.models.tokenizer_files import CAUSAL_ROLES, ROLES, TokenizerFiles
from steps.plan.seen import Seen
from steps.plan.sources import ModelFound


def token_problems(seen: Seen) -> Iterator[Problem]:
    """Refuse roles and token ids beyond the model's vocabulary, at which a training would fail."""
    rows = max(vocabulary_rows(seen.config), seen.new_tokens.total if seen.new_tokens.tokens else 0)
    if seen.model is not None:
        yield from problems_of_tokens(seen.model, seen.config, seen.recipe.kind.goes_on, rows)


def problems_of_tokens(model: ModelFound, config: Mapping[str, Any], goes_on: bool, rows: int) -> Iterator[Problem]:
    """Do the same for a model with `rows` embeddings; `goes_on` is whether it continues its prompt.

    Raises UserError for a file of generation settings that is none.
    """
    if not rows:
        return
    source, names = model.tokenizer
    try:
        tokenizer = TokenizerFiles.read(names, lambda name: source.read(names[name]))
        yield from role_problems(source.parameter, tokenizer, rows, CAUSAL_ROLES if goes_on else ROLES)
    except ValueError:
        pass  # prepare_data refuses a tokenizer that cannot be read
    parameter, files = model.files.parameter, model.layout.model_files
    yield from named_problems(parameter, CONFIG, {**(config.get("text_config") or {}), **config}, rows)
    if GENERATION in files:
        told = read_json(parameter, model.files.read, files[GENERATION])
        yield from named_problems(parameter, GENERATION, told, rows)
