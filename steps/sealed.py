"""Complete a folder of checkpoints with its manifest when all its files are there, and find out whether one is whole.

What trains may write files with names and forms of its own; the manifest, written last, says that they are all there.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from steps.artifacts import MANIFEST, Manifest, describe_files, follow_umask, parse_manifest, verified, write_durably
from steps.errors import StepError


def seal_folder(checkpoint: Path, facts: Mapping[str, Any], lineage: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint's manifest when all files are on disk; this completes its save."""
    follow_umask(checkpoint)
    _flush(checkpoint)
    manifest = Manifest("checkpoint", describe_files(checkpoint), dict(lineage or {}), dict(facts))
    text = json.dumps({**vars(manifest), "digest": manifest.digest}, indent=1)
    write_durably(checkpoint / MANIFEST, text)


def _flush(folder: Path) -> None:
    """Write a folder's files to the disk: a manifest must not outlive them when a node fails."""
    for path in (folder, *folder.rglob("*")):
        number = os.open(path, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def is_sealed(checkpoint: Path) -> bool:
    """Return whether the save of a checkpoint was completed."""
    return (checkpoint / MANIFEST).is_file()


def described(checkpoint: Path) -> Manifest | None:
    """Return a checkpoint's manifest; None without a readable one."""
    try:
        return parse_manifest((checkpoint / MANIFEST).read_bytes(), checkpoint)
    except (OSError, StepError):
        return None


def is_described(checkpoint: Path) -> bool:
    """Return whether a checkpoint has a manifest that can be read."""
    return described(checkpoint) is not None


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """Return the facts in a checkpoint's manifest; none without a readable one."""
    manifest = described(checkpoint)
    return manifest.facts if manifest else {}


def damage_of(checkpoint: Path) -> str:
    """Return what is wrong with the files of a checkpoint; empty if all are as they were written."""
    try:
        manifest = verified(checkpoint, "checkpoint")
    except StepError as error:
        return error.problems[0].found
    return "" if manifest.files else f"a {MANIFEST} without files"


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint; what another thread has deleted already is passed over."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)  # first, so that after a kill the folder is not valid
    with suppress(FileNotFoundError):
        shutil.rmtree(checkpoint)
