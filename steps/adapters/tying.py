"""Tied embeddings: one tensor of the base is both input and output embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from steps.adapters.folders import Folder
from steps.adapters.settings import LoraSettings
from steps.errors import Problem
from steps.models.embeddings import EMBEDDINGS, HEADS, last_of, module_of
from steps.models.weights import Stored, find


def is_tied(base: Folder, tensors: dict[str, Stored]) -> bool:
    """Return whether the base's embeddings are tied; without the setting, they are if the base has no output tensor."""
    text = base.config.get("text_config") or {}
    said = base.config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    return not any(last_of(name) in HEADS for name in tensors) if said is None else bool(said)


def tying_problems(
    adapter: Folder, settings: LoraSettings, low_rank: Iterable[str], replaced: Iterable[str]
) -> Iterator[Problem]:
    """Refuse changes of only one of two tied embeddings.

    PEFT merges LoRA on one of them into both (with a warning), which gives another model than the trained one; and it
    unties embeddings in modules_to_save, for which the base's files have no second tensor.
    """
    for module in low_rank:
        if module.split(".")[-1] in EMBEDDINGS:
            yield _problem(adapter, f"an adapter on {module}, which is tied between input and output",
                           "train without it, or untie the base's embeddings before training")  # fmt: skip
    for name in replaced:
        if last_of(name) in EMBEDDINGS and settings.saves_module(module_of(name)) and not settings.keeps_tying:
            yield _problem(adapter, f"{module_of(name)} in modules_to_save, which unties the embeddings",
                           "train with ensure_weight_tying=True")  # fmt: skip


def without_twins(tensors: dict[str, Stored], replacements: dict[str, Stored]) -> dict[str, Stored]:
    """Remove the second name of a tied embedding: PEFT saves it under both names, the base has only one."""
    twins = {name: stored for name, stored in replacements.items() if last_of(name) in EMBEDDINGS}
    with_place = [_bytes(stored) for name, stored in twins.items() if find(tensors, name)]
    doubled = {name for name, stored in twins.items() if not find(tensors, name) and _bytes(stored) in with_place}
    return {name: stored for name, stored in replacements.items() if name not in doubled}


def _problem(adapter: Folder, found: str, fix: str) -> Problem:
    return Problem("MERGE-E0208", adapter.where, found, "no change of only one of two tied embeddings", fix)


def _bytes(stored: Stored) -> bytes:
    with open(stored.file, "rb") as stream:
        stream.seek(stored.start)
        return stream.read(stored.end - stored.start)
