"""Open a base or an adapter: an artifact, or a folder as Hugging Face and PEFT save it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.artifacts import Manifest, has_manifest, read_manifest
from steps.errors import Problem, UserError, shown
from steps.models.layout import ADAPTER_CONFIG as ADAPTER_CONFIG
from steps.models.layout import (
    CONFIG,
    GENERATION,
    INDEX,
    MODEL_NAMES,
    PROCESSOR_NAMES,
    TOKENIZER_NAMES,
    VOCABULARIES,
    refuse_large,
    shards_of,
)
from steps.models.weights import Stored, stored_tensors
from steps.params.text_file import any_json

ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHTS = "model.safetensors"
# Without the base's model card: the merged model gets its own when it is registered.
TAKEN_ALONG = MODEL_NAMES - {"README.md"}


@dataclass(frozen=True)
class Folder:
    """A base model or an adapter."""

    role: str
    """base or adapter."""
    path: Path
    manifest: Manifest | None
    """None for a folder that no step of this project wrote."""
    config: dict[str, Any]
    """config.json of a base, adapter_config.json of an adapter."""
    weights: tuple[str, ...]
    """Names of its safetensors files."""
    others: frozenset[str]
    """Names of the other files at its top level."""

    @property
    def where(self) -> str:
        """Name for error messages."""
        return f"{self.role} ({self.path})"

    @property
    def tokenizer_names(self) -> set[str]:
        """Names of its tokenizer files."""
        return set(self.others & TOKENIZER_NAMES)


def open_base(path: Path) -> Folder:
    """Open a model folder without reading weights. Raises UserError if it is not one, Outage if it is incomplete."""
    manifest, names = _look("base", path, "model")
    if CONFIG not in names:
        raise _no_model(path, f"no {CONFIG}")
    config = _read_json("base", path / CONFIG)
    if INDEX in names:
        weights = shards_of(f"base ({path / INDEX})", _read_json("base", path / INDEX))
        if missing := [name for name in weights if name not in names]:
            raise UserError(
                Problem("MERGE-E0104", f"base ({path / INDEX})", f"no {', '.join(missing)} beside it",
                        "every shard that it names", "add the missing files", count=len(missing))
            )  # fmt: skip
    else:
        weights = [WEIGHTS] if WEIGHTS in names else sorted(name for name in names if name.endswith(".safetensors"))
        if len(weights) > 1:
            raise _no_model(path, f"{len(weights)} safetensors files without {INDEX}")
    if not weights:
        raise _no_model(path, "no safetensors weights")
    return Folder("base", path, manifest, config, tuple(weights), names - set(weights))


def open_adapter(path: Path) -> Folder | Manifest:
    """Open an adapter folder; for a fully tuned model, which has no adapter, return its manifest.

    Raises UserError if the folder is neither, Outage if it is incomplete.
    """
    manifest, names = _look("adapter", path, ("adapter", "model"))
    if manifest and manifest.kind == "model":
        return manifest
    if missing := [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if name not in names]:
        pickled = "adapter_model.bin" in names
        raise UserError(
            Problem("MERGE-E0102", f"adapter ({path})", f"no {' and no '.join(missing)}", "an adapter as PEFT saves it",
                    "convert adapter_model.bin to safetensors if you trust its author" if pickled
                    else "name the folder that model.save_pretrained wrote")
        )  # fmt: skip
    config = _read_json("adapter", path / ADAPTER_CONFIG)
    return Folder("adapter", path, manifest, config, (ADAPTER_WEIGHTS,), names - {ADAPTER_WEIGHTS})


def tensors_in(folder: Folder, name: str) -> dict[str, Stored]:
    """List the tensors of one weight file. Raises UserError if the file is truncated or not a safetensors file."""
    try:
        return stored_tensors(folder.path / name)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            Problem("MERGE-E0103", f"{folder.role} ({folder.path / name})", str(error), "a complete safetensors file",
                    "copy the file again")
        ) from None  # fmt: skip


def origin(folder: Folder) -> str:
    """Identify the folder in the lineage: an artifact by its digest, a plain folder by its path.

    Raises Outage if an artifact's files differ from its manifest.
    """
    return read_manifest(folder.path).digest if folder.manifest else str(folder.path.absolute())


def tokenizer_in(path: Path) -> dict[str, Path]:
    """Return the tokenizer files of a folder. Raises UserError if it has no complete tokenizer."""
    found = {name: path / name for name in sorted(TOKENIZER_NAMES) if (path / name).is_file()}
    if not VOCABULARIES & set(found):
        raise UserError(
            Problem("MERGE-E0113", f"tokenizer ({path})", "no tokenizer file", "tokenizer.json or a vocabulary",
                    "name the folder that tokenizer.save_pretrained wrote")
        )  # fmt: skip
    refuse_large(f"tokenizer ({path})", {name: file.stat().st_size for name, file in found.items()})
    return found


def small_files(base: Folder, adapter: Folder, given: dict[str, Path] | None = None) -> dict[str, Path]:
    """Select the files to write beside the merged weights: the adapter's tokenizer, if any, and the base's files.

    `given` are the files of an explicitly passed tokenizer, which replaces both tokenizers. The base's processor of
    images stays: what trains an adapter often saves the tokenizer alone.
    """
    chosen = {name: base.path / name for name in base.others & (TAKEN_ALONG | PROCESSOR_NAMES | {INDEX})}
    if GENERATION in adapter.others:  # defines how the tuned model begins its answers
        chosen[GENERATION] = adapter.path / GENERATION
    if given:
        return chosen | given
    tokenizer = {name: adapter.path / name for name in adapter.tokenizer_names}
    # Files of two tokenizers must not be mixed, so a complete tokenizer replaces all of the base's files.
    if not VOCABULARIES & set(tokenizer):
        tokenizer = {name: base.path / name for name in base.tokenizer_names} | tokenizer
    return chosen | tokenizer


def _look(role: str, path: Path, kind: str | tuple[str, ...]) -> tuple[Manifest | None, frozenset[str]]:
    if has_manifest(path):
        manifest = read_manifest(path, kind)
        refuse_large(f"{role} ({path})", {name: entry["size"] for name, entry in manifest.files.items()})
        return manifest, frozenset(manifest.files)
    if not path.is_dir():
        code, wanted = ("MERGE-E0101", "a model folder") if role == "base" else ("MERGE-E0102", "an adapter folder")
        raise UserError(Problem(code, f"{role} ({path})", "no such folder", wanted, "correct the path"))
    sizes = {entry.name: entry.stat().st_size for entry in path.iterdir() if entry.is_file()}
    refuse_large(f"{role} ({path})", sizes)
    return None, frozenset(sizes)


def _no_model(path: Path, found: str) -> UserError:
    return UserError(
        Problem("MERGE-E0101", f"base ({path})", found, f"a model folder: {CONFIG} and safetensors weights",
                "save the model with save_pretrained, and name its folder")
    )  # fmt: skip


def _read_json(role: str, file: Path) -> dict[str, Any]:
    try:
        value = any_json(file.read_bytes())
    except ValueError as error:
        value = str(error)
    if isinstance(value, dict):
        return value
    found = value if isinstance(value, str) else shown(value)
    raise UserError(Problem("MERGE-E0106", f"{role} ({file})", found, "a JSON object", "copy the file again"))
