"""The folders of the models that are compared: the model before this run, and the tuned one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.adapters.layout import adapter_of
from steps.adapters.merging import merge
from steps.artifacts import has_manifest, read_manifest
from steps.errors import NumericError, UserError
from steps.models.layout import ADAPTER_CONFIG, CONFIG

NOTHING_LEARNED = {"MERGE-E0301", "MERGE-E0302"}  # the adapter changes no weight, so the model equals the base


@contextmanager
def model_before(base: Path, near: Path) -> Iterator[Path]:
    """Yield the folder of the model before training: `base`, or if an adapter's training is continued, both merged.

    The merge is the same as for the tuned adapter; its temporary folder inside `near` is deleted afterwards. Raises as
    `merge`.
    """
    adapter = adapter_of(base)
    if adapter is None:
        yield base
        return
    with _merged(base, adapter, near, "base") as merged:
        yield merged


@contextmanager
def model_after(base: Path, tuned: Path, near: Path) -> Iterator[Path]:
    """Yield the folder of the tuned model: `tuned`, or if it is an adapter, both merged; `base` if it changes nothing.

    The merge is that of the step merge-adapter; its temporary folder inside `near` is deleted afterwards. Raises as
    `merge`.
    """
    if (tuned / CONFIG).is_file() and not (tuned / ADAPTER_CONFIG).is_file():
        yield tuned
        return
    with _merged(base, tuned, near, "tuned") as merged:
        yield merged


@contextmanager
def _merged(base: Path, adapter: Path, near: Path, name: str) -> Iterator[Path]:
    """Yield a temporary folder with this name, with the merged model; `base` if the adapter changes no weight."""
    near.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=near, prefix=f".{name}-") as room:
        try:
            merge(base, adapter, merged := Path(room, name))
        except (UserError, NumericError) as error:
            if not {problem.code for problem in error.problems} <= NOTHING_LEARNED:
                raise
            merged = base
        yield merged


def told_before(base: Path) -> str:
    """Return a sentence on the base of the comparison if it includes an adapter; else an empty string."""
    if not has_manifest(base):
        return ""
    lineage = read_manifest(base).lineage
    adapter = lineage.get("adapter")
    if not adapter:
        return ""
    return f"The base is {lineage['source']} with the adapter {adapter['source']['uri']}, both before this run."
