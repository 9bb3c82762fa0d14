"""Merge an adapter into its base model."""

from __future__ import annotations

import logging
from pathlib import Path

from steps.adapters.merging import merge
from steps.artifacts import Manifest
from steps.merge_adapter.device_map import NOT_NEEDED, check_device_map

log = logging.getLogger("finetune")


def merge_adapter(
    base: Path, adapter: Path, output: Path, tokenizer: Path | None = None, device_map: str = ""
) -> Manifest:
    """Write the base model with the adapter merged; device_map is checked and has no effect.

    For the other arguments, the output and the errors see `steps.adapters.merging.merge`.
    """
    if device_map:
        check_device_map(device_map)
        log.info(NOT_NEEDED, device_map)
    merged = merge(base, adapter, output, tokenizer)
    if merged.same_as:
        log.info("no adapter: the tuned model is the result")
    return merged
