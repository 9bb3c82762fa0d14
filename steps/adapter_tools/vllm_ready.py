"""Make an adapter that vLLM can serve beside its base: the factors only.

PEFT also saves fully trained weights (modules_to_save, trainable tokens) and, if the embeddings are targeted or
resized, copies of them; vLLM refuses to load these. A copy that equals the base has no effect and is left out. A copy
that differs was trained: without it, vLLM would serve another model, so such an adapter is refused.
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
    """Write an adapter that vLLM can serve; the input is unchanged.

    base is the model that the adapter was trained on; tensors that are left out are compared with it. It may be absent
    if no tensor is left out. training_config is a hint, which is only logged. Raises UserError if vLLM cannot serve
    this kind, or if a tensor that would be left out differs from the base.
    """
    expected = trained_whole(str(training_config), _read(training_config)) if training_config else []
    return make_ready(adapter, output, base, expected)


def make_ready(adapter: Path, output: Path, base: Path | None, expected: list[str]) -> Manifest:
    """Implement `create_vllm_compatible_adapter`; expected is what training_config trains whole."""
    _refuse_overlap(adapter, output)
    tuned = open_adapter(adapter)
    if isinstance(tuned, Manifest):
        raise UserError(
            Problem("ADAPTER-E0205", f"adapter ({adapter})", "a fully tuned model", "an adapter",
                    "serve this folder directly with vLLM")
        )  # fmt: skip
    if problems := list(vllm_problems(tuned)):
        raise UserError(problems)
    parts = sort_out(tuned)
    model = open_base(base) if base else None
    if problems := [*rank_problems(tuned.where, rank_of(tuned, parts)), *differences(tuned, parts, model)]:
        raise UserError(problems)
    lineage = _lineage(tuned, model)
    if _is_there(output, lineage):
        log.info("%s already contains this adapter: nothing to do", output)
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
    """Write the kept tensors to a safetensors file, unchanged except for evened factors; return its sha256."""
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
    """Return the digests of the inputs; `model` is the base that the adapter was trained on, needed by later checks."""
    content = adapter.manifest or Manifest("adapter", describe_files(adapter.path))
    trained_on = trained_on_digest(adapter) or (base.manifest.digest if base and base.manifest else "")
    return {"inputs": {"adapter": content.digest, **({"model": trained_on} if trained_on else {})}}


def _is_there(output: Path, lineage: dict[str, Any]) -> bool:
    try:
        made = read_manifest(output, "adapter")
    except (StepError, ValueError, TypeError):  # the artifact is missing or different, and is written again
        return False
    return made.lineage == {"code": code_digest(), **lineage}


def _read(file: Path) -> bytes:
    return read_bytes("training_config", str(file), LARGEST + 1)


def _refuse_overlap(adapter: Path, output: Path) -> None:
    given, place = adapter.resolve(), output.resolve()
    if given == place or place in given.parents:
        raise UserError(
            Problem("MERGE-E0105", "output", f"{output}, which contains the adapter", "a separate folder",
                    "name another output folder; the adapter stays unchanged")
        )  # fmt: skip


def _tell(parts: Sorted, expected: list[str], rank: int) -> None:
    if parts.is_ready:
        log.info("the adapter was already compatible with vLLM: copied, nothing left out")
    else:
        log.info("%d factors kept, %d copies of base tensors left out", len(parts.kept), len(parts.left_out))
        if parts.even:
            log.info("all modules now have rank %d and the scale lora_alpha / r, as vLLM requires", parts.even.rank)
        for name in parts.cleared:
            log.info("%s cleared: vLLM refuses or ignores it", name)
    if expected:
        log.info("training_config names %s; no weight left out differs from the base", ", ".join(expected))
    if rank > USUAL_RANK:
        log.info("start vLLM with --max-lora-rank %d (its default is %d)", rank, USUAL_RANK)
