"""Checkpoints in an object store, each complete when its manifest is there."""

from __future__ import annotations

import shutil
from pathlib import Path

from steps.artifacts import MANIFEST, Manifest, parse_manifest
from steps.errors import Outage, Problem, StepError
from steps.finetune.checkpoints.sealing import by_step, damage_of
from steps.sources.object_folder import ObjectFolder, in_parallel

NO_MANIFEST = f"no {MANIFEST}"


class StoredCheckpoints:
    """The checkpoints of one training below a URI. Every method raises UserError or Outage as `ObjectFolder` does."""

    def __init__(self, objects: ObjectFolder):
        self.objects = objects

    def names(self) -> list[str]:
        """Return the names of all checkpoints, complete or not, by their steps."""
        return by_step(list({name.partition("/")[0] for name in self.objects.sizes() if "/" in name}))

    def manifest(self, name: str) -> bytes | None:
        """Return the text of a checkpoint's manifest; None if there is none."""
        return self.objects.read(f"{name}/{MANIFEST}")

    def described(self, name: str) -> Manifest | None:
        """Return a checkpoint's manifest; None without a readable one."""
        try:
            return parse_manifest(self.manifest(name) or b"", Path(name))
        except Outage as error:
            if error.transient:  # of the store, and not of the text
                raise
            return None

    def damage_of(self, name: str) -> str:
        """Return what is wrong with a checkpoint, as far as that shows without a download; empty if nothing is."""
        text = self.manifest(name)
        if text is None:
            return NO_MANIFEST
        try:
            manifest = parse_manifest(text, Path(name))
        except StepError as error:
            return error.problems[0].found
        return _difference(manifest, self.objects.sizes(name), name)

    def fetch(self, name: str, target: Path) -> str:
        """Download a checkpoint; return what is wrong with it, and leave nothing at `target` then.

        Raises Outage if the store fails: that says nothing about the checkpoint.
        """
        if damage := self.damage_of(name):
            return damage
        draft = target.with_name(f".{target.name}.coming")
        for _ in range(2):  # what was damaged on its way is not the second time
            shutil.rmtree(draft, ignore_errors=True)
            self.objects.fetch(name, draft)
            if not (damage := damage_of(draft)):
                shutil.rmtree(target, ignore_errors=True)
                draft.rename(target)
                return ""
        shutil.rmtree(draft)
        return damage

    def upload(self, folder: Path, name: str, done: set[str] | None = None) -> int:
        """Upload a complete checkpoint, several files at a time and the manifest last; return its bytes.

        What was there under this name is deleted before, its manifest first. `done` are the files that an earlier try
        has uploaded, and gets those of this one.
        """
        text = (folder / MANIFEST).read_bytes()
        manifest = parse_manifest(text, folder)
        there: set[str] = set() if done is None else done
        if not there:
            self.delete(name)

        def put(file: str) -> None:
            self.objects.put(folder / file, f"{name}/{file}")
            there.add(file)

        in_parallel(put, [file for file in manifest.files if file not in there])
        if wrong := _difference(manifest, self.objects.sizes(name), name):
            there.clear()
            raise Outage(
                Problem("CHECKPOINT-E0402", f"{self.objects.uri}/{name}", wrong, "what was uploaded", "run again")
            )
        self.objects.write(f"{name}/{MANIFEST}", text)
        return sum(int(entry["size"]) for entry in manifest.files.values())

    def delete(self, name: str) -> None:
        """Delete a checkpoint, its manifest first: from then on it does not exist for a reader."""
        sizes = self.objects.sizes(name)
        if f"{name}/{MANIFEST}" in sizes:
            self.objects.delete([f"{name}/{MANIFEST}"])
        self.objects.delete(file for file in sizes if file != f"{name}/{MANIFEST}")


def _difference(manifest: Manifest, sizes: dict[str, int], name: str) -> str:
    for file, entry in manifest.files.items():
        size = sizes.get(f"{name}/{file}")
        if size is None:
            return f"{file} missing"
        if size != entry["size"]:
            return f"{file} with {size} bytes instead of {entry['size']}"
    return ""
