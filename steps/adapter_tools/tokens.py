"""Rename tokens of a tokenizer: <|im_end|> becomes </s> and keeps its id.

A server or another program may refer to special tokens by name, but the model only uses their ids. So the names are
changed in every file that contains them, and weights are unchanged.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from steps.adapters.folders import ADAPTER_CONFIG
from steps.artifacts import MANIFEST, Manifest, has_manifest, new_artifact, read_manifest
from steps.errors import Problem, UserError
from steps.models.token_files import Names
from steps.models.token_renaming import renamed

log = logging.getLogger("finetune")


def replace_tokens(folder: Path, output: Path, from_: list[str], to: list[str]) -> Manifest:
    """Write a copy of a folder with a tokenizer, in which each token of `from_` is renamed to the entry in `to`.

    The folder may be a model, an adapter or only a tokenizer. Names can be swapped, because all are changed at once.
    Raises UserError for unknown tokens, names that exist, and tokenizers that cannot be edited.
    """
    if len(from_) != len(to) or not from_:
        raise UserError(
            Problem("ADAPTER-E0301", "--from, --to", f"{len(from_)} and {len(to)} tokens",
                    "as many new names as tokens", "give each --from its --to, in the same order")
        )  # fmt: skip
    return rename(folder, output, dict(zip(from_, to, strict=True)))


def rename(folder: Path, output: Path, names: Names) -> Manifest:
    """Rename by a table; see `replace_tokens`."""
    _refuse_overlap(folder, output)
    before = read_manifest(folder) if has_manifest(folder) else None
    changed = renamed(folder, names)
    stale = [name for name in ("tokenizer.model", "spiece.model") if (folder / name).is_file()]
    history = {key: value for key, value in before.lineage.items() if key != "code"} if before else {}
    origin = before.digest if before else str(folder.absolute())
    lineage = {**history, "renamed_tokens": names, "renamed_from": origin}
    with new_artifact(output, _kind(folder, before), lineage) as draft:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            if name == MANIFEST or name in stale:
                continue
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            if name in changed:
                (draft / name).write_bytes(changed[name])
            else:
                shutil.copyfile(file, draft / name)
        draft.facts = {**(before.facts if before else {}), "renamed_tokens": names}
    for token, name in names.items():
        log.info("renamed %s to %s, with the same id", token, name)
    log.info("changed %s", ", ".join(sorted(changed)))
    for name in stale:
        log.info("WARNING %s left out: it contains the old names, and tokenizer.json is sufficient", name)
    return read_manifest(output)


def _kind(folder: Path, manifest: Manifest | None) -> str:
    if manifest:
        return manifest.kind
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    return "model" if any(folder.glob("*.safetensors")) else "tokenizer"


def _refuse_overlap(folder: Path, output: Path) -> None:
    given, place = folder.resolve(), output.resolve()
    if given == place or place in given.parents or given in place.parents:
        raise UserError(
            Problem("MERGE-E0105", "output", f"{output}, which overlaps the input folder", "a separate folder",
                    "name another output folder; the input stays unchanged")
        )  # fmt: skip
