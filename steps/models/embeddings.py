"""Names of the embedding matrices: tensors with one row for each token of the vocabulary."""

from __future__ import annotations

from steps.models.weights import Stored
from steps.params.lora import HEADS as HEADS
from steps.params.lora import WITHOUT_ADAPTER

# Output and input embeddings by the last part of their module's name.
EMBEDDINGS = WITHOUT_ADAPTER - {"wpe"}  # position embeddings have no rows for tokens


def module_of(name: str) -> str:
    """Return the module of a tensor: model.embed_tokens for model.embed_tokens.weight."""
    return name.rpartition(".")[0]


def last_of(name: str) -> str:
    """Return the last part of the name of a tensor's module: embed_tokens for model.embed_tokens.weight."""
    return module_of(name).rpartition(".")[2]


def is_vocabulary(tensor: Stored, rows: int) -> bool:
    """Return whether a tensor has one row (a bias: one number) for each of `rows` tokens."""
    return last_of(tensor.name) in EMBEDDINGS and bool(tensor.shape) and tensor.shape[0] == rows
