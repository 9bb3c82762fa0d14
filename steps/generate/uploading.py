"""Copy the finished answers to a folder or an object store of the user."""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.artifacts import MANIFEST, write_durably
from steps.errors import Problem, UserError
from steps.params.text_file import any_json
from steps.sources.object_folder import ObjectFolder, in_parallel, uri_problems
from steps.sources.storage import local_path
from steps.writing import write_error

log = logging.getLogger("finetune")
PARAMETER = "s3_upload_dir"


EARLIER = ".earlier.json"  # what is left of earlier copies, until this one is whole


def upload(generations: Path, target: str) -> None:
    """Copy the artifact `generations` to `target`, its manifest last: where that is, every file is.

    Files of earlier copies that are not part of this one are deleted, also if one of them ended in its middle. Raises
    UserError if the place cannot be written or is the artifact itself, Outage if a store does not answer.
    """
    names = sorted(str(file.relative_to(generations)) for file in generations.rglob("*") if file.is_file())
    names.remove(MANIFEST)
    folder = local_path(target)
    if folder is None:
        _to_store(generations, names, target)
    else:
        _to_folder(generations, names, folder)
    log.info("copied %d files to %s", len(names) + 1, target)


def _to_store(generations: Path, names: list[str], uri: str) -> None:
    if problems := uri_problems(PARAMETER, uri, "GEN-E0225"):
        raise UserError(problems)
    store = ObjectFolder(PARAMETER, uri)
    before = _listed(store.read(MANIFEST)) | _listed(store.read(EARLIER))
    with TemporaryDirectory() as scratch:
        note = Path(scratch, EARLIER)
        note.write_text(_note(before | set(names)), encoding="utf-8")
        store.put(note, EARLIER)
    store.delete([MANIFEST])
    in_parallel(lambda name: store.put(generations / name, name), names)
    store.delete(before - set(names))
    store.put(generations / MANIFEST, MANIFEST)
    store.delete([EARLIER])


def _to_folder(generations: Path, names: list[str], folder: Path) -> None:
    if error := write_error("GEN-E0226", PARAMETER, folder):
        raise error
    if folder.resolve().is_relative_to(generations.resolve()):
        raise UserError(Problem("GEN-E0227", PARAMETER, f"{folder}, the place of the result itself", "another folder",
                                "name another one, or leave it out"))  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    place, earlier = folder / MANIFEST, folder / EARLIER
    before = {name for file in (place, earlier) if file.is_file() for name in _listed(file.read_bytes())}
    write_durably(earlier, _note(before | set(names)))
    place.unlink(missing_ok=True)
    for name in names:
        _copy(generations / name, folder / name)
    for name in before - set(names):
        with suppress(OSError, ValueError):  # gone, no file any more, or no name
            (folder / name).unlink()
    _copy(generations / MANIFEST, place)
    earlier.unlink()


def _note(names: set[str]) -> str:
    """Return the names of files in the form that `_listed` reads."""
    return json.dumps({"kind": "generations", "files": sorted(names)})


def _copy(file: Path, target: Path) -> None:
    """Copy a file; the target is whole or absent, and a copy that failed takes no space."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copyfile(file, draft)
        with open(draft, "rb") as copied:
            os.fsync(copied.fileno())
        os.replace(draft, target)
    except OSError as error:
        error.filename = error.filename or str(target)  # a flush names no file, and so tells no volume
        with suppress(OSError):
            draft.unlink()
        raise


def _listed(manifest: bytes | None) -> set[str]:
    """Return the files of an earlier copy by its manifest; only names inside its folder."""
    try:
        told = any_json(manifest or b"{}")
        names = told["files"] if isinstance(told, dict) and told.get("kind") == "generations" else {}
        return {name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts}
    except (ValueError, KeyError, TypeError):
        return set()
