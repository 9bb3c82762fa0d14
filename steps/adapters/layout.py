"""The files of an adapter's folder, and the subfolders of an imported model for its adapter and reference.

Like `steps/models/layout.py`, this module reads only file names and small files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.errors import Problem, SecurityRefusal, UserError
from steps.kinds.adapters import KEPT_KINDS
from steps.models.foreign_code import refuse_code
from steps.models.layout import (
    ADAPTER_CONFIG,
    CONFIG,
    TOKENIZER_NAMES,
    VOCABULARIES,
    checked_settings,
    directly_in,
    read_json,
    refuse_folders,
    refuse_large,
    shallowest_with,
)
from steps.models.layout import ADAPTER_FOLDER as ADAPTER_FOLDER
from steps.models.layout import GENERATION as GENERATION
from steps.models.odd_config import refuse_odd_adapter, refuse_odd_values
from steps.models.tokenizer_files import parsed

ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Subfolder of a model artifact, like ADAPTER_FOLDER: a separate reference model for preference training.
REFERENCE_FOLDER = "reference"


@dataclass(frozen=True)
class AdapterLayout:
    """The files of one adapter, by name → path inside the source."""

    adapter_files: dict[str, str]
    """Settings and weights; also the tuned model's configuration if the adapter has its own head."""
    tokenizer_files: dict[str, str]
    """The tokenizer that it was trained with; empty if none was saved."""
    config: dict[str, Any]
    """adapter_config.json."""
    tokenizer_config: dict[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """All files that are imported."""
        return {**self.adapter_files, **self.tokenizer_files}

    @property
    def has_tokenizer(self) -> bool:
        """Whether it has a complete tokenizer, which then replaces the base's."""
        return bool(VOCABULARIES & set(self.tokenizer_files))

    @property
    def base(self) -> str:
        """The model that it was trained on, as recorded: a path, URI or Hub id; empty if not recorded."""
        return str(self.config.get("base_model_name_or_path") or "").strip()


def read_adapter(parameter: str, names: Mapping[str, int], read: Callable[[str], bytes]) -> AdapterLayout:
    """Check an adapter by its file names (→ bytes) and small JSON files, which `read` returns.

    `parameter` is the one that names it. Raises UserError if it is not an adapter, SecurityRefusal for pickled weights
    and remote code.
    """
    refuse_large(parameter, names)
    folder = shallowest_with(ADAPTER_CONFIG, names)
    if folder is None:
        some = ", ".join(sorted(names)[:5]) or "nothing"
        raise UserError(
            Problem("MODEL-E0121", parameter, f"no {ADAPTER_CONFIG} (there is: {some})", "an adapter as PEFT saves it",
                    "name the folder that model.save_pretrained wrote, or name a full model with pytorch_model_path")
        )  # fmt: skip
    refuse_folders(parameter, names, folder)
    inside = {name.removeprefix(folder): name for name in names if directly_in(name, folder)}
    if ADAPTER_WEIGHTS not in inside:
        _refuse_pickles(parameter, inside)
        raise UserError(
            Problem("MODEL-E0122", parameter, f"{ADAPTER_CONFIG} without {ADAPTER_WEIGHTS}", "the adapter's weights",
                    "upload the missing file")
        )  # fmt: skip
    tokenizer = {name: path for name, path in inside.items() if name in TOKENIZER_NAMES}
    adapter = {name: inside[name] for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, GENERATION) if name in inside}
    config = read_json(parameter, read, adapter[ADAPTER_CONFIG])
    refuse_odd_adapter(f"{parameter}: {ADAPTER_CONFIG}", config)
    if CONFIG in adapter:
        own = read_json(parameter, read, adapter[CONFIG])
        refuse_code(parameter, own)
        refuse_odd_values(f"{parameter}: {CONFIG}", own)
    return AdapterLayout(adapter, tokenizer, config, checked_settings(parameter, {**adapter, **tokenizer}, read))


def largest_token(tokenizer: bytes) -> int:
    """Return the highest token id in a tokenizer.json; -1 if it has no token. Raises UnfitFile."""
    told = parsed("tokenizer.json", tokenizer)
    vocabulary = (told.get("model") or {}).get("vocab") or {}
    numbers = list(vocabulary.values()) if isinstance(vocabulary, dict) else [len(vocabulary) - 1]  # Unigram: a list
    return max([*numbers, *(token["id"] for token in told.get("added_tokens") or [])], default=-1)


def adapter_of(model: Path) -> Path | None:
    """Return the folder of the adapter that was imported with a model and whose training is continued."""
    folder = model / ADAPTER_FOLDER
    return folder if (folder / ADAPTER_CONFIG).is_file() else None


def kept_adapter_of(model: Path) -> Path | None:
    """Return the folder of a tuned model's adapter if its kind cannot be merged."""
    folder = adapter_of(model)
    if folder is None:
        return None
    told = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return folder if told.get("peft_type") in KEPT_KINDS else None


def reference_of(model: Path) -> Path | None:
    """Return the folder of the reference model that was imported with a model."""
    folder = model / REFERENCE_FOLDER
    return folder if (folder / CONFIG).is_file() else None


def _refuse_pickles(parameter: str, inside: Mapping[str, str]) -> None:
    if "adapter_model.bin" in inside:
        raise SecurityRefusal(
            Problem("MODEL-E0301", parameter, "pickled weights only (adapter_model.bin)", "safetensors",
                    "convert them if you trust their author: model.save_pretrained(folder) writes safetensors")
        )  # fmt: skip
