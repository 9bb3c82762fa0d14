"""A head that the base does not have: a classifier's last layer, trained whole beside the adapter.

Its tensors are put behind those of the base's last shard, so the headers are written anew; the rest is copied or merged
as ever. Configuration and index then speak of the tuned model.
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
QUANTISED = "quantization_config"  # how the base was stored while it was tuned; merged weights are stored as ever
# What a decoder that answers questions calls its body in transformers, against all other models with that body.
BODIES = {"model.": "transformer."}


@dataclass(frozen=True)
class NewHead:
    """What the merged model has and the base has not, or not in this shape."""

    tensors: dict[str, Stored]
    """Name in the merged model → tensor of the adapter."""
    replaced: frozenset[str] = frozenset()
    """Tensors of the base that give way: a head for another number of classes."""
    body: tuple[str, str] = ("", "")
    """How the base and the merged model call what is below the head, where they differ: model. and transformer."""
    prefix: str = ""
    """Put before the base's names: a base saved without its own head lacks what a model with a head says first."""

    def name_of(self, name: str) -> str:
        """Name a tensor of the base as the merged model does."""
        theirs, ours = self.body
        if theirs and name.startswith(theirs):
            return ours + name.removeprefix(theirs)
        return name if name.startswith(self.prefix) else self.prefix + name


def is_new(settings: LoraSettings, name: str) -> bool:
    """Say whether a tensor without a place in the base belongs to a head that was trained and saved whole."""
    module, _, _ = name.rpartition(".")
    if not settings.has_head or module.rpartition(".")[2] in EMBEDDINGS:
        return False
    ancestors = (module.rsplit(".", depth)[0] for depth in range(module.count(".") + 1))
    return any(map(settings.saves_module, ancestors))


def head_problems(adapter: Folder) -> Iterator[Problem]:
    """Refuse a head of which nobody knows what its numbers mean."""
    if CONFIG not in adapter.others:
        yield Problem("MERGE-E0111", adapter.where, f"a head of its own, but no {CONFIG}",
                      "the tuned model's configuration, which names its classes",
                      "save it beside the adapter: model.get_base_model().config.save_pretrained(folder)")  # fmt: skip


def merged_config(base: Folder, adapter: Folder) -> dict[str, Any]:
    """The tuned model's configuration, with the type of the base's weights."""
    tuned = json.loads((adapter.path / CONFIG).read_text(encoding="utf-8"))
    kept = {key: value for key, value in tuned.items() if key not in (*DTYPES, QUANTISED)}
    return {**kept, **{key: base.config[key] for key in DTYPES if key in base.config}}


def merged_index(base: Folder, head: NewHead, last: str) -> dict[str, Any]:
    """The base's index with the new tensors in the shard `last`."""
    index = json.loads((base.path / INDEX).read_text(encoding="utf-8"))
    kept = {head.name_of(name): file for name, file in index["weight_map"].items() if name not in head.replaced}
    return {**index, "weight_map": {**kept, **dict.fromkeys(head.tensors, last)}}


def with_prefix(head: NewHead, found: dict[str, str]) -> NewHead:
    """Learn the prefix from names of the tuned model and what the base calls the same tensors."""
    for theirs, ours in BODIES.items():
        if any(name.startswith(ours) and called.startswith(theirs) for name, called in found.items()):
            return replace(head, body=(theirs, ours))
    prefixes = {name.removesuffix(called) for name, called in found.items() if name != called}
    return replace(head, prefix=min(prefixes, key=len)) if prefixes else head
