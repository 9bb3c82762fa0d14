"""Tell whether two folders hold the same model, whatever their files are called and whatever else is in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from steps.artifacts import BLOCK, Manifest, describe_files, has_manifest, read_manifest, sha256_of
from steps.models.layout import ADAPTER_CONFIG, ADAPTER_FOLDER, CONFIG, GENERATION, INDEX, TOKENIZER_NAMES, shards_of
from steps.models.weights import Stored, stored_tensors

# Keys that name where a model came from or who wrote the file; no library computes with them.
TOLD_ONLY = {"_name_or_path", "name_or_path", "base_model_name_or_path", "transformers_version", "_from_model_config"}
CONFIGS = {CONFIG, GENERATION, ADAPTER_CONFIG, "tokenizer_config.json"}


def checked(folder: Path) -> str:
    """Check a model's files and return their digest; a plain folder without a manifest is accepted."""
    if (folder / CONFIG).is_file() and not has_manifest(folder):
        return Manifest("model", describe_files(folder)).digest
    return read_manifest(folder, "model").digest


def model_digest(folder: Path, names: Iterable[str]) -> str:
    """Digest the tensors, configurations and tokenizer among the files `names` of a model folder.

    Equal for the same tensors (name, type, shape, bytes) in other shards or files. Everything else has no effect: the
    index, the training's history, the card, the licence. A tokenizer or chat template that differs in one byte is a
    different model. Raises ValueError for a file of weights that is not complete.
    """
    known = set(names)
    lines = []
    for part in ("", f"{ADAPTER_FOLDER}/"):
        inside = {name.removeprefix(part) for name in known if name.startswith(part)}
        inside = {name for name in inside if "/" not in name}
        weights = _weights(folder / part, inside)
        tensors = [tensor for name in weights for tensor in stored_tensors(folder / part / name).values()]
        with ThreadPoolExecutor(4) as pool:
            digests = list(pool.map(_digest, tensors))
        lines += [
            f"{part}{tensor.name}\0{tensor.dtype}\0{tensor.shape}\0{digest}"
            for tensor, digest in zip(tensors, digests, strict=True)
        ]
        small = inside & (CONFIGS | TOKENIZER_NAMES)
        lines += [f"{part}{name}\0{_small(folder / part / name)}" for name in small]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _weights(folder: Path, names: set[str]) -> list[str]:
    """Return the files that are loaded: those of the index, else model.safetensors, else all there are."""
    if INDEX in names:
        return shards_of(str(folder / INDEX), json.loads((folder / INDEX).read_text(encoding="utf-8")))
    found = sorted(name for name in names if name.endswith(".safetensors"))
    return ["model.safetensors"] if "model.safetensors" in found else found


def _digest(tensor: Stored) -> str:
    digest, left = hashlib.sha256(), tensor.end - tensor.start
    with open(tensor.file, "rb") as stream:
        stream.seek(tensor.start)
        while block := stream.read(min(BLOCK, left)):
            digest.update(block)
            left -= len(block)
    return digest.hexdigest()


def _small(file: Path) -> str:
    if file.name not in CONFIGS:
        return sha256_of(file)
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return sha256_of(file)
    told = {key: item for key, item in value.items() if key not in TOLD_ONLY} if isinstance(value, dict) else value
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
