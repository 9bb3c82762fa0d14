"""Extend a base model by new tokens: they are added to its tokenizer, and a row for each to its embeddings.

The base is extended on import, so that data, training, merge and evaluation use the same vocabulary. Only shards with
an embedding are written again; their other tensors, and all other files, are copied.

A new row is the mean of the old rows plus noise with their covariance times 1e-9, as in transformers
(`resize_token_embeddings` with mean_resizing, after nlp.stanford.edu/~johnhew/vocab-expansion.html), so that untrained
tokens hardly change the probabilities of the others. With g drawn from N(0, 1) for each of N old rows,
Σ gᵢ (xᵢ - mean) / √N has exactly their covariance, so one pass over the rows is enough, without a covariance matrix.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steps.errors import Problem, UserError
from steps.models.embeddings import is_vocabulary
from steps.models.hashed_file import HashedFile, copy_bytes, read_into
from steps.models.layout import CONFIG, INDEX, ModelLayout, vocabulary_rows
from steps.models.tokenizer_files import TokenizerFiles
from steps.models.weights import FLOATS, Stored, header_of, stored_tensors
from steps.params.settings import ImportSettings

NOISE = 1e-9  # factor of the old rows' covariance
SEED = 0  # any fixed seed: the noise only makes rows different, but must be reproducible
BLOCK_ROWS = 1024

# Writes a new or changed file, and returns its sha256.
Write = Callable[[Path], str]


@dataclass(frozen=True)
class Extension:
    """The changes of a model by new tokens or another padding token; empty if there are none."""

    writes: dict[str, Write]
    """Name of a file → function that writes it instead of copying the source's."""
    config: dict[str, Any]
    """The model's configuration."""
    facts: dict[str, Any]
    """For the manifest: new_tokens ({token: id}) and vocabulary ({tokens, rows}, each [before, after])."""
    added: int = 0
    """Number of added parameters."""


def extension_of(parameter: str, settings: ImportSettings, folder: Path, layout: ModelLayout) -> Extension:
    """Determine the changes; reads small files and weight headers.

    Raises UserError if the model has no embedding to which rows can be added.
    """
    if not (settings.new_tokens or settings.padding_token):
        return Extension({}, layout.config, {})
    names = layout.tokenizer_files
    before = TokenizerFiles.read(names, lambda name: (folder / names[name]).read_bytes())
    after = before.with_tokens(settings.new_tokens) if settings.new_tokens else before
    padded = after.with_role("pad_token", settings.padding_token) if settings.padding_token else after
    writes: dict[str, Write] = {
        name: partial(_write, content=content) for name, content in padded.changed(before).items()
    }
    if not settings.new_tokens:
        return Extension(writes, layout.config, {})
    old, now = before.numbers(), after.numbers()
    rows = vocabulary_rows(layout.config)
    size = max(rows, *(number + 1 for number in now.values()))
    facts = {
        "new_tokens": {token: now[token] for token in settings.new_tokens if token not in old},
        "vocabulary": {"tokens": [max(old.values()) + 1, max(now.values()) + 1], "rows": [rows, size]},
    }
    if size == rows:
        return Extension(writes, layout.config, facts)
    config = _with_rows(layout.config, size)
    writes[CONFIG] = partial(_write, content=_json(config))
    growing = _growing(parameter, folder, layout, rows)
    added = sum(tensor.row_size for tensors in growing.values() for tensor in tensors) * (size - rows)
    return Extension(writes | _grown_weights(folder, layout, growing, size), config, facts, added)


def _with_rows(config: dict[str, Any], rows: int) -> dict[str, Any]:
    if config.get("vocab_size"):
        return {**config, "vocab_size": rows}
    return {**config, "text_config": {**config["text_config"], "vocab_size": rows}}


def _growing(parameter: str, folder: Path, layout: ModelLayout, rows: int) -> dict[str, list[Stored]]:
    """Return the tensors with a row for each token, by the name of their shard."""
    growing: dict[str, list[Stored]] = {}
    for name, source in layout.weights.items():
        if name.endswith(".safetensors"):
            found = [tensor for tensor in stored_tensors(folder / source).values() if is_vocabulary(tensor, rows)]
            growing |= {name: found} if found else {}
    if layout.weights and not growing:
        raise UserError(
            Problem("MODEL-E0131", parameter, f"no embedding with {rows:,} rows in the weights",
                    "an embedding to which rows for new tokens can be added", "name another model, or add no tokens")
        )  # fmt: skip
    if strange := [tensor for tensors in growing.values() for tensor in tensors if tensor.dtype not in FLOATS]:
        raise UserError(
            Problem("MODEL-E0132", parameter, f"{strange[0].name} as {strange[0].dtype}", " or ".join(FLOATS),
                    "name the model before quantisation")
        )  # fmt: skip
    return growing


def _grown_weights(folder: Path, layout: ModelLayout, growing: dict[str, list[Stored]], size: int) -> dict[str, Write]:
    writes: dict[str, Write] = {}
    for name, tensors in growing.items():
        whole = list(stored_tensors(folder / layout.weights[name]).values())
        writes[name] = partial(_write_grown, whole, {tensor.name: size for tensor in tensors})
    if INDEX in layout.weights:
        index = json.loads((folder / layout.weights[INDEX]).read_bytes())
        told = index.get("metadata") or {}
        if "total_size" in told:
            grown = [(size - tensor.rows) * _row_bytes(tensor) for tensors in growing.values() for tensor in tensors]
            index["metadata"] = {**told, "total_size": told["total_size"] + sum(grown)}
        writes[INDEX] = partial(_write, content=_json(index))
    return writes


def _write(target: Path, content: bytes) -> str:
    with HashedFile(target) as out:
        out.append(content)
    return out.hash.hexdigest()


def _write_grown(tensors: list[Stored], sizes: dict[str, int], target: Path) -> str:
    """Write a shard in which the tensors in `sizes` have that many rows; new rows follow the old ones."""
    grown = [_of_size(tensor, sizes.get(tensor.name, tensor.rows)) for tensor in tensors]
    with HashedFile(target) as out:
        out.append(header_of([(tensor.name, tensor) for tensor in grown]))
        for tensor in tensors:
            copy_bytes(tensor.file, tensor.start, tensor.end, out)
            if tensor.name in sizes:
                out.append(new_rows(tensor, sizes[tensor.name] - tensor.rows))
    return out.hash.hexdigest()


def _of_size(tensor: Stored, rows: int) -> Stored:
    end = tensor.end + (rows - tensor.rows) * _row_bytes(tensor) if rows != tensor.rows else tensor.end
    return replace(tensor, shape=(rows, *tensor.shape[1:]) if tensor.shape else (), end=end)


def new_rows(tensor: Stored, count: int) -> bytes:
    """Draw rows around the mean row of a stored tensor; equal tensors, such as tied embeddings, give equal rows."""
    draw = np.random.default_rng(SEED)
    total = np.zeros(tensor.row_size)
    mixed = np.zeros((count, tensor.row_size))
    weights = np.zeros((count, 1))
    for start in range(0, tensor.rows, BLOCK_ROWS):
        block = _read_rows(tensor, start, min(start + BLOCK_ROWS, tensor.rows))
        chance = draw.standard_normal((count, len(block)))
        total += block.sum(axis=0)
        mixed += chance @ block
        weights += chance.sum(axis=1, keepdims=True)
    mean = total / tensor.rows
    return _as_stored(mean + math.sqrt(NOISE / tensor.rows) * (mixed - weights * mean), tensor.dtype)


def _read_rows(tensor: Stored, start: int, stop: int) -> np.ndarray:
    """Read rows as float64, (stop - start, elements of a row)."""
    size = _row_bytes(tensor)
    raw = bytearray((stop - start) * size)
    read_into(tensor.file, tensor.start + start * size, memoryview(raw))
    if tensor.dtype == "BF16":  # the upper half of a float32
        values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        values = np.frombuffer(raw, "<f2" if tensor.dtype == "F16" else "<f4")
    return values.astype(np.float64).reshape(stop - start, tensor.row_size)


def _as_stored(values: np.ndarray, dtype: str) -> bytes:
    """Round to the nearest value of a type, ties to even."""
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    single = values.astype("<f4")
    if dtype == "F32":
        return single.tobytes()
    bits = single.view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _row_bytes(tensor: Stored) -> int:
    return tensor.row_size * FLOATS[tensor.dtype]


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
