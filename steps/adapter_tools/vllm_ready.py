"""An adapter that vLLM serves beside its base: the factors alone.

PEFT also saves what was trained whole (modules_to_save, trainable tokens) and, when the embeddings are touched or
resized, copies of them; vLLM refuses to load these. A copy that equals the base adds nothing and is left out. One that
differs is a part of what was learned: leaving it out would serve another model, so that is refused.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.adapter_tools.evening import Even, evened
from steps.adapter_tools.sameness import same_values
from steps.adapter_tools.training_hint import LARGEST, trained_whole
from steps.adapter_tools.vllm_rules import CLEARED, HEADS, MERGE, USUAL_RANK, max_rank, rank_problems, vllm_problems
from steps.artifacts import Manifest, code_digest, describe_files, new_artifact, read_manifest
from steps.embeddings import EMBEDDINGS
from steps.embeddings import HEADS as OUTPUT_EMBEDDINGS
from steps.errors import Problem, StepError, UserError
from steps.hashed_file import HashedFile, copy_bytes
from steps.merge_adapter.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Folder, open_adapter, open_base, tensors_in
from steps.merge_adapter.planning import FACTOR, PREFIX
from steps.storage import read_bytes
from steps.weights import Stored, find, header_of

log = logging.getLogger("finetune")

TOKEN_ROWS = ".token_adapter.trainable_tokens_delta"  # behind the name of an embedding with trainable tokens


@dataclass(frozen=True)
class Sorted:
    """What becomes of an adapter's tensors and settings."""

    kept: dict[str, Stored]
    left_out: dict[str, Stored]
    cleared: dict[str, Any]
    """Settings that are emptied, with their values."""
    even: Even | None = None
    """How modules of several ranks and scales get one."""

    @property
    def is_ready(self) -> bool:
        """Whether vLLM loads the adapter as it is, and computes the same."""
        return not self.left_out and not self.cleared and not self.even


def create_vllm_compatible_adapter(
    adapter: Path, output: Path, base: Path | None = None, training_config: Path | None = None
) -> Manifest:
    """Write an adapter that vLLM can serve; the given one stays as it is.

    base is the model that the adapter was trained on: what is left out is compared with it. It may be absent when
    there is nothing to leave out. training_config is a hint that is told beside what the tensors say. Raises UserError
    when vLLM cannot serve this kind, or when what would be left out differs from the base.
    """
    expected = trained_whole(str(training_config), _read(training_config)) if training_config else []
    return make_ready(adapter, output, base, expected)


def make_ready(adapter: Path, output: Path, base: Path | None, expected: list[str]) -> Manifest:
    """Do the work of `create_vllm_compatible_adapter`; expected is what its hint names."""
    _refuse_overlap(adapter, output)
    tuned = open_adapter(adapter)
    if isinstance(tuned, Manifest):
        raise UserError(
            Problem("ADAPTER-E0205", f"adapter ({adapter})", "a fully tuned model", "an adapter",
                    "let vLLM serve this folder itself")
        )  # fmt: skip
    if problems := list(vllm_problems(tuned)):
        raise UserError(problems)
    parts = sort_out(tuned)
    model = open_base(base) if base else None
    if problems := [*rank_problems(tuned.where, rank_of(tuned, parts)), *differences(tuned, parts, model)]:
        raise UserError(problems)
    lineage = _lineage(tuned, model)
    if _is_there(output, lineage):
        log.info("%s holds this adapter already: nothing to do", output)
        return read_manifest(output)
    with new_artifact(output, "adapter", lineage) as draft:
        for name in sorted(tuned.others - {ADAPTER_CONFIG}):
            (draft / name).write_bytes((adapter / name).read_bytes())
        config = {**tuned.config, **dict.fromkeys(parts.cleared), **(parts.even.settings if parts.even else {})}
        kept_heads = [name for name in parts.cleared.get("modules_to_save") or () if name in HEADS]
        if kept_heads and any(_is_head(name) for name in parts.kept):
            config["modules_to_save"] = kept_heads
        (draft / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.known_digests[ADAPTER_WEIGHTS] = _write_weights(draft / ADAPTER_WEIGHTS, parts)
        rank = max_rank(rank_of(tuned, parts))
        draft.facts = {"tensors": len(parts.kept), "left_out": sorted(parts.left_out),
                       "cleared": sorted(parts.cleared), "evened": bool(parts.even),
                       "already_compatible": parts.is_ready, "max_lora_rank": rank}  # fmt: skip
    _tell(parts, expected, rank)
    return read_manifest(output)


def sort_out(adapter: Folder) -> Sorted:
    """Split an adapter's tensors into what vLLM loads and what it refuses. Raises UserError for a cut file."""
    tensors = tensors_in(adapter, adapter.weights[0])
    saved = adapter.config.get("modules_to_save") or []
    kept = {
        name: stored
        for name, stored in tensors.items()
        if FACTOR.fullmatch(name.removeprefix(PREFIX)) or (_is_head(name) and any(head in saved for head in HEADS))
    }
    heads = any(_is_head(name) for name in kept)
    cleared = {name: adapter.config[name] for name in CLEARED if adapter.config.get(name)}
    if heads and set(saved) <= set(HEADS):
        cleared.pop("modules_to_save", None)
    left_out = {name: stored for name, stored in tensors.items() if name not in kept}
    return Sorted(kept, left_out, cleared, evened(adapter, kept))


def rank_of(adapter: Folder, parts: Sorted) -> int:
    """Give the rank that vLLM needs room for."""
    return parts.even.rank if parts.even else int(adapter.config["r"])


def differences(adapter: Folder, parts: Sorted, base: Folder | None) -> Iterator[Problem]:
    """Yield what must not be left out, for it is no copy of the base."""
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
    trained_on = _trained_on(adapter)
    if trained_on and base.manifest and trained_on != base.manifest.digest:
        yield Problem("MERGE-E0201", adapter.where, f"an adapter of the base {trained_on[:12]}",
                      f"one of {base.manifest.digest[:12]}, as in {base.path}",
                      "pass the model that finetune was given")  # fmt: skip
        return
    tensors = {name: stored for file in base.weights for name, stored in tensors_in(base, file).items()}
    for name, stored in parts.left_out.items():
        if found := _difference(adapter, tensors, name, stored):
            yield Problem("ADAPTER-E0208", adapter.where, f"{name}, {found}",
                          "what equals the base, for vLLM loads low-rank factors only", MERGE)  # fmt: skip


def _difference(adapter: Folder, tensors: dict[str, Stored], name: str, stored: Stored) -> str:
    """Say how a tensor differs from the base's; empty when it is a copy."""
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
        return f"of shape {list(stored.shape)} where the base has {list(original.shape)}"
    return "" if same_values(stored, original, rows) else "whose values were changed by the training"


def _token_rows(adapter: Folder, called: str) -> list[int] | None:
    """Ids of the trained tokens of an embedding; one list is for the input embeddings."""
    indices = adapter.config.get("trainable_token_indices")
    if isinstance(indices, dict):
        module = called.removesuffix(".weight")
        indices = next((ids for key, ids in indices.items() if module == key or module.endswith(f".{key}")), None)
    return list(indices) if isinstance(indices, list) else None


def _tied_to(tensors: dict[str, Stored], called: str) -> Stored | None:
    """An output embedding that the base shares with its input is stored under the other name."""
    if called.split(".")[-2:-1] not in [[name] for name in OUTPUT_EMBEDDINGS]:
        return None
    inputs = EMBEDDINGS - OUTPUT_EMBEDDINGS
    return next(
        (stored for name, stored in tensors.items() if name.split(".")[-2:-1] in [[one] for one in inputs]), None
    )


def _is_head(name: str) -> bool:
    return name.split(".")[-2:-1] in [[head] for head in HEADS]


def _trained_on(adapter: Folder) -> str:
    inputs = adapter.manifest.lineage.get("inputs") if adapter.manifest else None
    return str((inputs or {}).get("model") or "")


def _write_weights(file: Path, parts: Sorted) -> str:
    """Write what is kept into a safetensors file, the bytes as they are but for evened factors; return its sha256."""
    even = parts.even
    described = {name: even.described(stored) if even else stored for name, stored in parts.kept.items()}
    with HashedFile(file) as out:
        out.append(header_of(list(described.items())))
        for name, stored in parts.kept.items():
            if even and name in even.scales:
                out.append(even.content(stored))
            else:
                copy_bytes(stored.file, stored.start, stored.end, out)
    return out.hash.hexdigest()


def _lineage(adapter: Folder, base: Folder | None) -> dict[str, Any]:
    """Inputs by content; `model` stays the base that the adapter was trained on, which every later check asks for."""
    content = adapter.manifest or Manifest("adapter", describe_files(adapter.path))
    trained_on = _trained_on(adapter) or (base.manifest.digest if base and base.manifest else "")
    return {"inputs": {"adapter": content.digest, **({"model": trained_on} if trained_on else {})}}


def _is_there(output: Path, lineage: dict[str, Any]) -> bool:
    try:
        made = read_manifest(output, "adapter")
    except (StepError, ValueError, TypeError):  # nothing there, or something else: it is written anew
        return False
    return made.lineage == {"code": code_digest(), **lineage}


def _read(file: Path) -> bytes:
    return read_bytes("training_config", str(file), LARGEST + 1)


def _refuse_overlap(adapter: Path, output: Path) -> None:
    given, place = adapter.resolve(), output.resolve()
    if given == place or place in given.parents:
        raise UserError(
            Problem("MERGE-E0105", "output", f"{output}, where the adapter is", "a folder of its own",
                    "name another output folder; the adapter stays as it is")
        )  # fmt: skip


def _tell(parts: Sorted, expected: list[str], rank: int) -> None:
    if parts.is_ready:
        log.info("the adapter was ready for vLLM already: copied, nothing left out")
    else:
        log.info("%d factors kept, %d copies of base tensors left out", len(parts.kept), len(parts.left_out))
        if parts.even:
            log.info("all modules have rank %d and the scale lora_alpha / r now, as vLLM takes it", parts.even.rank)
        for name in parts.cleared:
            log.info("%s cleared: vLLM refuses or does not read it", name)
    if expected:
        log.info("training_config names %s; compared with the base, nothing of it was changed", ", ".join(expected))
    if rank > USUAL_RANK:
        log.info("start vLLM with --max-lora-rank %d (it takes %d by itself)", rank, USUAL_RANK)
