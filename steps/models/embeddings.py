"""What the weights over a vocabulary are called: a row for each token, where it goes in and where it comes out."""

from __future__ import annotations

from steps.models.weights import Stored
from steps.params.lora import WITHOUT_ADAPTER

# Output and input embeddings by the last part of their module's name.
HEADS = {"embed_out", "lm_head"}
EMBEDDINGS = WITHOUT_ADAPTER - {"wpe"}  # positions are no vocabulary


def module_of(name: str) -> str:
    """Name the module of a tensor: model.embed_tokens for model.embed_tokens.weight."""
    return name.rpartition(".")[0]


def last_of(name: str) -> str:
    """Give the last part of the name of a tensor's module."""
    return module_of(name).rpartition(".")[2]


def is_vocabulary(tensor: Stored, rows: int) -> bool:
    """Say whether a tensor has one row (or, a bias, one number) for each of `rows` tokens."""
    return last_of(tensor.name) in EMBEDDINGS and bool(tensor.shape) and tensor.shape[0] == rows
