"""An adapter that vLLM serves beside its base: the factors alone.

PEFT also saves what was trained whole (modules_to_save, trainable tokens) and, when the embeddings are touched or
resized, copies of them; vLLM refuses to load these. A copy that equals the base adds nothing and is left out. One that
differs is a part of what was learned: leaving it out would serve another model, so that is refused.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from steps.adapters.fitting import trained_on_digest
from steps.adapters.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Folder, open_adapter, open_base
from steps.adapters.training_hint import LARGEST, trained_whole
from steps.adapters.vllm import Sorted, differences, is_head, rank_of, sort_out
from steps.adapters.vllm_rules import HEADS, USUAL_RANK, max_rank, rank_problems, vllm_problems
from steps.artifacts import Manifest, code_digest, describe_files, new_artifact, read_manifest
from steps.errors import Problem, StepError, UserError
from steps.models.hashed_file import HashedFile, copy_bytes
from steps.models.weights import header_of
from steps.sources.storage import read_bytes

log = logging.getLogger("finetune")


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
        if kept_heads and any(is_head(name) for name in parts.kept):
            config["modules_to_save"] = kept_heads
        (draft / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        draft.known_digests[ADAPTER_WEIGHTS] = _write_weights(draft / ADAPTER_WEIGHTS, parts)
        rank = max_rank(rank_of(tuned, parts))
        draft.facts = {"tensors": len(parts.kept), "left_out": sorted(parts.left_out),
                       "cleared": sorted(parts.cleared), "evened": bool(parts.even),
                       "already_compatible": parts.is_ready, "max_lora_rank": rank}  # fmt: skip
    _tell(parts, expected, rank)
    return read_manifest(output)


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
    trained_on = trained_on_digest(adapter) or (base.manifest.digest if base and base.manifest else "")
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
