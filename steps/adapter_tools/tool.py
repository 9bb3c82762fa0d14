"""The step of the pipeline: one tool on one adapter."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from steps.adapter_tools.checking import checked
from steps.adapter_tools.tokens import rename
from steps.adapter_tools.vllm_ready import make_ready
from steps.artifacts import Manifest, new_artifact, read_manifest
from steps.params.settings import AdapterToolSettings

log = logging.getLogger("finetune")


def adapter_tool(settings: AdapterToolSettings, base: Path, adapter: Path, result: Path) -> Manifest:
    """Run the tool of the settings, and write its result: a model, an adapter, or the findings of a check.

    Raises as the tool, and Outage for an input that is damaged or has lost its manifest: here both are artifacts, while
    the tools also take folders that have none.
    """
    for folder in _read_by(settings, base, adapter):
        read_manifest(folder)
    TOOLS[settings.action](settings, base, adapter, result)
    manifest = read_manifest(result)
    log.info("%s: %d files of kind %s", settings.action, len(manifest.files), manifest.kind)
    return manifest


def _read_by(settings: AdapterToolSettings, base: Path, adapter: Path) -> list[Path]:
    """Return the inputs that the tool reads."""
    if settings.action == "replace_tokens":
        return [base if settings.on_base else adapter]
    return [adapter] if settings.action == "vllm" and not settings.compare_with_base else [base, adapter]


def _merge(settings: AdapterToolSettings, base: Path, adapter: Path, result: Path) -> None:
    from steps.adapters.merging import merge  # only the merge needs torch

    merge(base, adapter, result)


def _vllm(settings: AdapterToolSettings, base: Path, adapter: Path, result: Path) -> None:
    # Without the comparison, the base was imported without its weights.
    make_ready(adapter, result, base if settings.compare_with_base else None, settings.trained_whole)


def _replace_tokens(settings: AdapterToolSettings, base: Path, adapter: Path, result: Path) -> None:
    rename(base if settings.on_base else adapter, result, settings.replacements)


def _check(settings: AdapterToolSettings, base: Path, adapter: Path, result: Path) -> None:
    found = checked(base, adapter)
    lineage = {"inputs": {"base": read_manifest(base).digest, "adapter": read_manifest(adapter).digest}}
    with new_artifact(result, "check", lineage) as draft:
        (draft / "check.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
        draft.facts = {"fits": found["fits"], "vllm": found["vllm"]}


TOOLS: dict[str, Callable[[AdapterToolSettings, Path, Path, Path], None]] = {
    "merge": _merge,
    "vllm": _vllm,
    "replace_tokens": _replace_tokens,
    "check": _check,
}
