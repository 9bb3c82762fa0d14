"""Merge an adapter into its base model: read, plan, merge, and check that the weights changed."""

from __future__ import annotations

import gc
import json
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from steps.adapters.folders import Folder, open_adapter, open_base, origin, small_files, tokenizer_in
from steps.adapters.kept import check_kept, facts_of_kept, is_kept, refuse_infinite, write_kept
from steps.adapters.new_head import merged_config, merged_index
from steps.adapters.planning import Change, MergePlan, Shard, plan_merge
from steps.adapters.streaming import write_shard
from steps.artifacts import Draft, Manifest, new_artifact, read_manifest
from steps.errors import NumericError, Problem, UserError
from steps.models.layout import CONFIG, INDEX

if TYPE_CHECKING:
    from steps.adapters.arithmetic import Merger

log = logging.getLogger("finetune")


def merge(base: Path, adapter: Path, output: Path, tokenizer: Path | None = None) -> Manifest:
    """Write the base model with the adapter merged, equal bit for bit to the result of PEFT's merge_and_unload.

    base and adapter are artifacts, or plain folders as Hugging Face and PEFT save them. If adapter is a fully tuned
    model, it is the result, and only a manifest is written. tokenizer is a folder whose tokenizer is saved with the
    model instead of the adapter's. An adapter that cannot be merged (KEPT_KINDS) is stored in a folder beside the
    base's weights. Raises UserError if the adapter cannot be merged into this base, NumericError if the merged weights
    are not finite or equal the base's.
    """
    given = tokenizer_in(tokenizer) if tokenizer else None
    _refuse_overlap(base, adapter, output)
    tuned = open_adapter(adapter)
    if isinstance(tuned, Manifest):
        return _same_as_tuned(base, tuned, output)
    model = open_base(base)
    if is_kept(tuned):
        return _keep(model, tuned, output, given)
    plan = plan_merge(model, tuned)
    log.debug("%s", plan)
    merger, lineage = _prepare(plan, model, tuned)
    with new_artifact(output, "model", lineage) as draft:
        for number, shard in enumerate(plan.shards, 1):
            _merge_shard(draft, shard, merger, f"{number}/{len(plan.shards)}")
        for name, source in small_files(model, tuned, given).items():
            (draft / name).write_bytes(source.read_bytes())
        if plan.head:
            _describe_head(draft, plan, model, tuned)
        draft.facts = _facts(model, tuned, plan, _prove_changed(merger, plan, tuned))
    return read_manifest(output)


def _refuse_overlap(base: Path, adapter: Path, output: Path) -> None:
    place = output.resolve()
    for role, given in (("base", base.resolve()), ("adapter", adapter.resolve())):
        if given == place or place in given.parents:
            raise UserError(
                Problem("MERGE-E0105", "output", f"{output}, which contains the {role}", "a separate folder",
                        "name another output folder", why="an artifact replaces the contents of its folder")
            )  # fmt: skip


def _same_as_tuned(base: Path, tuned: Manifest, output: Path) -> Manifest:
    """Write a manifest that refers to the fully tuned model: nothing is merged, and no weight is copied."""
    lineage = {"inputs": {"base": read_manifest(base, "model").digest, "adapter": tuned.digest}}
    with new_artifact(output, "model", lineage) as draft:
        draft.same_as = "tuned"
        draft.facts = {"merged_modules": 0}
    return read_manifest(output)


def _keep(base: Folder, adapter: Folder, output: Path, given: dict[str, Path] | None) -> Manifest:
    """Write the base unchanged, with the adapter beside its weights. Raises as `merge`."""
    check_kept(base, adapter)
    refuse_infinite(adapter)
    lineage = {"inputs": {"base": origin(base), "adapter": origin(adapter)}}
    with new_artifact(output, "model", lineage) as draft:
        write_kept(draft, base, adapter)
        for name, source in small_files(base, adapter, given).items():
            (draft / name).write_bytes(source.read_bytes())
        draft.facts = facts_of_kept(base, adapter)
    return read_manifest(output)


def _prepare(plan: MergePlan, base: Folder, adapter: Folder) -> tuple[Merger, dict[str, dict[str, str]]]:
    """Import torch while artifacts are compared with their manifests; return the merger and the lineage.

    Raises UserError if the adapter was never trained, Outage if an artifact differs from its manifest.
    """
    with ThreadPoolExecutor(2) as pool:
        origins = [pool.submit(origin, folder) for folder in (base, adapter)]
        Merger, is_zero = _load_arithmetic()
        lineage = {"inputs": {"base": origins[0].result(), "adapter": origins[1].result()}}
    if not plan.head and all(not change.replacement and change.adapted and is_zero(change) for change in plan.changes):
        raise UserError(
            Problem("MERGE-E0301", adapter.where, "an adapter of zeros, whose merge would equal the base model",
                    "trained weights", "train the adapter for at least one step")
        )  # fmt: skip
    return Merger(plan.work_size), lineage


def _load_arithmetic() -> tuple[type[Merger], Callable[[Change], bool]]:
    first = "torch" not in sys.modules and gc.isenabled()
    if first:
        # Importing torch creates no garbage; collecting while it loads and at exit would take 0.3 s of 2.
        gc.disable()
    try:
        from steps.adapters.arithmetic import Merger, is_zero
    finally:
        if first:
            gc.freeze()
            gc.enable()
    return Merger, is_zero


def _merge_shard(draft: Draft, shard: Shard, merger: Merger, which: str) -> None:
    started = time.monotonic()
    draft.known_digests[shard.name] = write_shard(draft / shard.name, shard, merger.merge)
    size, seconds = (draft / shard.name).stat().st_size, time.monotonic() - started
    count = f"{len(shard.changes)} of {len(shard.tensors)} tensors merged"
    log.info("shard %s %s: %s, %.1f MB in %.1f s", which, shard.name, count, size / 1e6, seconds)


def _describe_head(draft: Draft, plan: MergePlan, base: Folder, adapter: Folder) -> None:
    """Write configuration and index of the tuned model."""
    assert plan.head
    files = {CONFIG: merged_config(base, adapter)}
    if INDEX in base.others:
        files[INDEX] = merged_index(base, plan.head, plan.shards[-1].name)
    for name, content in files.items():
        (draft / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _prove_changed(merger: Merger, plan: MergePlan, adapter: Folder) -> int:
    """Return the number of tensors that differ from the base's. Raises NumericError if there is none."""
    if merger.changed or plan.head:
        return len(merger.changed)
    types = ", ".join(sorted({change.target.dtype for change in plan.changes}))
    raise NumericError(
        Problem("MERGE-E0302", adapter.where, f"changes too small for {types}: the merged model equals the base",
                "at least one changed tensor", "train longer or with a higher learning rate, or merge into the base in "
                "float32")
    )  # fmt: skip


def _facts(base: Folder, adapter: Folder, plan: MergePlan, changed: int) -> dict[str, object]:
    known = base.manifest.facts if base.manifest else {}
    return {
        **{name: value for name, value in known.items() if name != "left_out"},
        **(_head_facts(base, adapter, plan) if plan.head else {}),
        "tensors": sum(len(shard.kept) + len(shard.added) if shard.header else len(shard.tensors)
                       for shard in plan.shards),
        "changed_tensors": changed,
        "merged_modules": sum(plan.merged_modules.values()),
        "merged_by_name": plan.merged_modules,
    }  # fmt: skip


def _head_facts(base: Folder, adapter: Folder, plan: MergePlan) -> dict[str, object]:
    stored = [tensor for shard in plan.shards for tensor in (*shard.kept, *shard.added)]
    return {
        "architecture": (merged_config(base, adapter).get("architectures") or [""])[0],
        "parameters": sum(tensor.rows * tensor.row_size for tensor in stored),
        "new_tensors": sorted(plan.head.tensors) if plan.head else [],
    }
