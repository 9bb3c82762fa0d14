"""The model as it was before this run: what the tuned one is held against."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.adapters.layout import adapter_of
from steps.adapters.merging import merge
from steps.artifacts import MANIFEST, read_manifest
from steps.errors import NumericError, UserError

NOTHING_LEARNED = {"MERGE-E0301", "MERGE-E0302"}  # an adapter that changes no weight: the model is the base


@contextmanager
def model_before(base: Path, near: Path) -> Iterator[Path]:
    """Give the folder of the model that training began with: `base`, and with the adapter that it went on with.

    The two are merged as the tuned adapter was, in a folder inside `near` that is gone afterwards. Raises as
    `merge`.
    """
    adapter = adapter_of(base)
    if adapter is None:
        yield base
        return
    near.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=near, prefix=".before-") as room:
        try:
            merge(base, adapter, merged := Path(room, "base"))
        except (UserError, NumericError) as error:
            if not {problem.code for problem in error.problems} <= NOTHING_LEARNED:
                raise
            merged = base
        yield merged


def told_before(base: Path) -> str:
    """Say in a sentence what the base of the comparison is, where that is not just the model."""
    if not (base / MANIFEST).is_file():
        return ""
    lineage = read_manifest(base).lineage
    adapter = lineage.get("adapter")
    if not adapter:
        return ""
    return f"The base is {lineage['source']} with the adapter {adapter['source']['uri']}, as they were before this run."
