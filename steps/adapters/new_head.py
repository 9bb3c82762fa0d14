"""A head that the base does not have, such as a classifier's last layer, trained as a whole with the adapter.

Its tensors are appended to the base's last shard, so new headers are written; all other tensors are copied or merged as
usual. Configuration and index describe the tuned model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from steps.adapters.folders import Folder
from steps.adapters.settings import LoraSettings
from steps.errors import Problem
from steps.models.embeddings import EMBEDDINGS
from steps.models.layout import CONFIG, INDEX
from steps.models.weights import Stored

DTYPES = ("dtype", "torch_dtype")
QUANTISED = "quantization_config"  # describes the base during training; merged weights are not quantised
# In transformers, decoders for extractive question answering name their body differently from other models.
BODIES = {"model.": "transformer."}


@dataclass(frozen=True)
class NewHead:
    """Tensors that the base does not have, or not in this shape, and differences in names."""

    tensors: dict[str, Stored]
    """Name in the merged model → tensor of the adapter."""
    replaced: frozenset[str] = frozenset()
    """Tensors of the base that are replaced: a head for another number of classes."""
    body: tuple[str, str] = ("", "")
    """Prefix of the body in the base and in the merged model, if they differ: model. and transformer."""
    prefix: str = ""
    """Prefix for the base's names: a base saved without a head lacks the prefix that a model with a head has."""

    def name_of(self, name: str) -> str:
        """Return the name in the merged model of a tensor of the base."""
        theirs, ours = self.body
        if theirs and name.startswith(theirs):
            return ours + name.removeprefix(theirs)
        return name if name.startswith(self.prefix) else self.prefix + name


def is_new(settings: LoraSettings, name: str) -> bool:
    """Return whether a tensor that the base does not have belongs to a head that was trained and saved as a whole."""
    module, _, _ = name.rpartition(".")
    if not settings.has_head or module.rpartition(".")[2] in EMBEDDINGS:
        return False
    ancestors = (module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1))
    return any(map(settings.saves_module, ancestors))


def head_problems(adapter: Folder) -> Iterator[Problem]:
    """Refuse a head without the configuration that names its classes."""
    if CONFIG not in adapter.others:
        yield Problem("MERGE-E0111", adapter.where, f"its own head, but no {CONFIG}",
                      "the tuned model's configuration, which names its classes",
                      "save it beside the adapter: model.get_base_model().config.save_pretrained(folder)")  # fmt: skip


def merged_config(base: Folder, adapter: Folder) -> dict[str, Any]:
    """Return the tuned model's configuration, with the dtype of the base's weights."""
    tuned = json.loads((adapter.path / CONFIG).read_text(encoding="utf-8"))
    kept = {key: value for key, value in tuned.items() if key not in (*DTYPES, QUANTISED)}
    return {**kept, **{key: base.config[key] for key in DTYPES if key in base.config}}


def merged_index(base: Folder, head: NewHead, last: str) -> dict[str, Any]:
    """Return the base's index with the new tensors in the shard `last`."""
    index = json.loads((base.path / INDEX).read_text(encoding="utf-8"))
    kept = {head.name_of(name): file for name, file in index["weight_map"].items() if name not in head.replaced}
    return {**index, "weight_map": {**kept, **dict.fromkeys(head.tensors, last)}}


def with_prefix(head: NewHead, found: dict[str, str]) -> NewHead:
    """Set body or prefix of a head, found from names in the tuned model → names of the same tensors in the base."""
    for theirs, ours in BODIES.items():
        if any(name.startswith(ours) and called.startswith(theirs) for name, called in found.items()):
            return replace(head, body=(theirs, ours))
    prefixes = {name.removesuffix(called) for name, called in found.items() if name != called}
    return replace(head, prefix=min(prefixes, key=len)) if prefixes else head
