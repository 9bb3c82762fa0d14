"""Which tensors of an adapter vLLM loads, which it refuses, and whether the refused ones are copies of the base's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from steps.adapters.evening import Even, evened
from steps.adapters.fitting import trained_on_digest
from steps.adapters.folders import Folder, tensors_in
from steps.adapters.planning import FACTOR, PREFIX
from steps.adapters.sameness import same_values
from steps.adapters.vllm_rules import CLEARED, HEADS, MERGE
from steps.errors import Problem
from steps.models.embeddings import EMBEDDINGS
from steps.models.embeddings import HEADS as OUTPUT_EMBEDDINGS
from steps.models.weights import Stored, find

TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"  # suffix for an embedding with trainable tokens


@dataclass(frozen=True)
class Sorted:
    """An adapter's tensors and settings, divided into those that vLLM loads and the others."""

    kept: dict[str, Stored]
    left_out: dict[str, Stored]
    cleared: dict[str, Any]
    """Settings that are cleared, with their values."""
    even: Even | None = None
    """The changes that give all modules one rank and one scale; None if there are no patterns."""

    @property
    def is_ready(self) -> bool:
        """Whether vLLM loads the unchanged adapter, and computes the same."""
        return not self.left_out and not self.cleared and not self.even


def sort_out(adapter: Folder) -> Sorted:
    """Split an adapter's tensors into those vLLM loads and those it refuses. Raises UserError for a truncated file."""
    tensors = tensors_in(adapter, adapter.weights[0])
    saved = adapter.config.get("modules_to_save") or []
    kept = {
        name: stored
        for name, stored in tensors.items()
        if FACTOR.fullmatch(name.removeprefix(PREFIX)) or (is_head(name) and any(head in saved for head in HEADS))
    }
    heads = any(is_head(name) for name in kept)
    cleared = {name: adapter.config[name] for name in CLEARED if adapter.config.get(name)}
    if heads and set(saved) <= set(HEADS):
        cleared.pop("modules_to_save", None)
    left_out = {name: stored for name, stored in tensors.items() if name not in kept}
    return Sorted(kept, left_out, cleared, evened(adapter, kept))


def rank_of(adapter: Folder, parts: Sorted) -> int:
    """Return the rank that vLLM has to support."""
    return parts.even.rank if parts.even else int(adapter.config["r"])


def differences(adapter: Folder, parts: Sorted, base: Folder | None) -> Iterator[Problem]:
    """Yield a problem for each tensor that cannot be left out, because it is not a copy of the base's."""
    if not parts.kept:
        yield Problem("ADAPTER-E0206", adapter.where, "no low-rank factors", "a trained LoRA adapter", MERGE)
    if not parts.left_out:
        return
    some = ", ".join(list(parts.left_out)[:3])
    if base is None:
        yield Problem("ADAPTER-E0207", "base", f"none, and {len(parts.left_out)} tensors to leave out ({some})",
                      "the model that the adapter was trained on, to compare them with",
                      "name it with --base")  # fmt: skip
        return
    trained_on = trained_on_digest(adapter)
    if trained_on and base.manifest and trained_on != base.manifest.digest:
        yield Problem("MERGE-E0201", adapter.where, f"an adapter of the base {trained_on[:12]}",
                      f"one of {base.manifest.digest[:12]}, as in {base.path}",
                      "pass the model that finetune was given")  # fmt: skip
        return
    tensors = {name: stored for file in base.weights for name, stored in tensors_in(base, file).items()}
    for name, stored in parts.left_out.items():
        if found := _difference(adapter, tensors, name, stored):
            yield Problem("ADAPTER-E0208", adapter.where, f"{name}, {found}",
                          "a copy of the base's tensor", MERGE, why="vLLM loads only low-rank factors")  # fmt: skip


def _difference(adapter: Folder, tensors: dict[str, Stored], name: str, stored: Stored) -> str:
    """Describe how a tensor differs from the base's; empty if it is a copy."""
    called = name.removeprefix(PREFIX)
    rows = None
    if called.endswith(TOKEN_ROWS):
        called = called.removesuffix(TOKEN_ROWS) + ".weight"
        rows = _token_rows(adapter, called)
        if rows is None:
            return "rows of tokens that adapter_config.json does not name"
    called = called.replace(".base_layer.", ".")
    original = find(tensors, called) or _tied_to(tensors, called)
    if original is None:
        return "which the base does not have"
    if rows is None and original.shape != stored.shape:
        return f"of shape {list(stored.shape)}, but in the base of shape {list(original.shape)}"
    return "" if same_values(stored, original, rows) else "whose values were changed by the training"


def _token_rows(adapter: Folder, called: str) -> list[int] | None:
    """Return the ids of the trained tokens of an embedding; a single list is for the input embeddings."""
    indices = adapter.config.get("trainable_token_indices")
    if isinstance(indices, dict):
        module = called.removesuffix(".weight")
        indices = next((ids for key, ids in indices.items() if module == key or module.endswith(f".{key}")), None)
    return list(indices) if isinstance(indices, list) else None


def _tied_to(tensors: dict[str, Stored], called: str) -> Stored | None:
    """Return the base's input embedding for an output embedding: tied embeddings are stored under the input's name."""
    if called.split(".")[-2:-1] not in [[name] for name in OUTPUT_EMBEDDINGS]:
        return None
    inputs = EMBEDDINGS - OUTPUT_EMBEDDINGS
    return next(
        (stored for name, stored in tensors.items() if name.split(".")[-2:-1] in [[one] for one in inputs]), None
    )


def is_head(name: str) -> bool:
    return name.split(".")[-2:-1] in [[head] for head in HEADS]
