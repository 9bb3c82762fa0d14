"""Complete a folder of checkpoints with its manifest when all its files are there, and find out whether one is whole.

What trains may write files with names and forms of its own; the manifest, written last, says that they are all there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from steps.artifacts import (
    MANIFEST,
    Manifest,
    describe_files,
    flush,
    follow_umask,
    manifest_alone,
    manifest_text,
    read_manifest,
    write_durably,
)
from steps.errors import StepError


def seal_folder(checkpoint: Path, facts: Mapping[str, Any], lineage: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint's manifest when all files are on disk; this completes its save."""
    follow_umask(checkpoint)
    flush(checkpoint)
    manifest = Manifest("checkpoint", describe_files(checkpoint), dict(lineage or {}), dict(facts))
    write_durably(checkpoint / MANIFEST, manifest_text(manifest))


def is_sealed(checkpoint: Path) -> bool:
    """Return whether the save of a checkpoint was completed."""
    return os.path.lexists(checkpoint / MANIFEST)  # whatever it is by now


def described(checkpoint: Path) -> Manifest | None:
    """Return a checkpoint's manifest; None without a readable one."""
    try:
        return manifest_alone(checkpoint)
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
        manifest = read_manifest(checkpoint, "checkpoint")
    except StepError as error:
        return error.problems[0].found
    return "" if manifest.files else f"a {MANIFEST} without files"


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint, or the link to one; what another thread has deleted already is passed over."""
    if checkpoint.is_symlink():
        checkpoint.unlink(missing_ok=True)
        return
    if not (checkpoint / MANIFEST).is_dir():
        (checkpoint / MANIFEST).unlink(missing_ok=True)  # first, so that after a kill the folder is not valid
    with suppress(FileNotFoundError):
        shutil.rmtree(checkpoint)
