"""Write, describe and check artifacts, the folders that steps pass to each other.

Every artifact is a folder with a `manifest.json` that lists its files with size and sha256. It is written beside its
final path and renamed as the last operation, so a folder at its final path is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from steps.errors import Outage, OutOfResources, Problem, StepError, UserError
from steps.exhausted import exhausted, is_out_of_space
from steps.volumes import told_of

MANIFEST = "manifest.json"
BLOCK = 8 * 1024 * 1024
TELLING = 100_000  # bytes; what is smaller tells nothing of the space that a folder needs


@dataclass(frozen=True)
class Manifest:
    """The content and origin of an artifact folder."""

    kind: str
    """model, adapter, tokenizer, data, evaluation, generations, scores, registration or checkpoint."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Relative path → {size in bytes, sha256}."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """Digests of the inputs, settings, code version."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Summary of the content, readable without opening the files; its keys depend on the kind."""
    same_as: str = ""
    """Name of the input that has the same files: unchanged weights are not written again."""

    @property
    def digest(self) -> str:
        """Digest of the content: equal for equal files; file dates do not matter."""
        lines = [f"{name}\0{entry['sha256']}\n" for name, entry in sorted(self.files.items())]
        return hashlib.sha256("".join([self.same_as, *lines]).encode()).hexdigest()


class Draft:
    """An artifact that is being written; `draft / name` is the path of a file in it."""

    def __init__(self, path: Path):
        self.path = path
        self.facts: dict[str, Any] = {}
        self.same_as = ""
        self.known_digests: dict[str, str] = {}
        """sha256 of files that the writer hashed while writing, so that they are not read again."""

    def __truediv__(self, name: str) -> Path:
        return self.path / name


@contextmanager
def new_artifact(path: Path, kind: str, lineage: dict[str, Any] | None = None) -> Iterator[Draft]:
    """Write an artifact folder that appears complete at `path` when the block ends, or not at all.

    Raises OutOfResources when the disk is full. After any error the partial folder is deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f"{path.name}.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    draft = Draft(path.with_name(f"{path.name}.tmp-{os.getpid()}"))
    try:
        draft.path.mkdir()
        yield draft
        follow_umask(draft.path)
        files = describe_files(draft.path, draft.known_digests)
        manifest = Manifest(kind, files, {"code": code_digest(), **(lineage or {})}, draft.facts, draft.same_as)
        write_durably(draft.path / MANIFEST, json.dumps({**asdict(manifest), "digest": manifest.digest}, indent=1))
        _replace(draft.path, path)
    except BaseException as error:
        full = disk_full(path, draft.path, error)  # before the draft's own space is free again
        shutil.rmtree(draft.path, ignore_errors=True)
        if full:
            raise full from error
        raise


def read_manifest(path: Path, kind: str | tuple[str, ...] = ()) -> Manifest:
    """Read an artifact's manifest and check that its files exist with the right size; does not read the files.

    Raises Outage when the folder or a file is missing or has another size, UserError for another kind of artifact.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    try:
        text = (path / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise _gone(path, f"no {MANIFEST}") from None
    manifest = parse_manifest(text, path)
    if kinds and manifest.kind not in kinds:
        expected = " or ".join(kinds)
        raise UserError(
            Problem("ARTIFACT-E0102", str(path), f"a folder of kind {manifest.kind}", expected, f"pass the {expected}")
        )
    for name, entry in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise _gone(path, f"{name} missing")
        if file.stat().st_size != entry["size"]:
            raise _gone(path, f"{name} with {file.stat().st_size} bytes instead of {entry['size']}")
    return manifest


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Read the text of the manifest of the artifact at `path`. Raises Outage if the text is damaged."""
    try:
        raw = json.loads(text.decode("utf-8"))
        raw.pop("digest")
        manifest = Manifest(**raw)
        for name, entry in manifest.files.items():
            if not isinstance(entry["size"], int) or not isinstance(entry["sha256"], str) or _leaves_folder(name):
                raise ValueError(name)
        if not isinstance(manifest.facts, dict) or not isinstance(manifest.lineage, dict):
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise _gone(path, f"a damaged {MANIFEST}") from None
    return manifest


def _leaves_folder(name: str) -> bool:
    return not name or name.startswith("/") or ".." in Path(name).parts


def verified(path: Path, kind: str | tuple[str, ...] = ()) -> Manifest:
    """Read an artifact's manifest and compare every file with its sha256.

    Raises Outage with the name of the file whose bytes changed; otherwise as `read_manifest`.
    """
    manifest = read_manifest(path, kind)
    now = describe_files(path)
    for name, entry in manifest.files.items():
        if now.get(name, {}).get("sha256") != entry["sha256"]:
            raise _gone(path, f"{name} with other content than was written")
    return manifest


def resolve_model(tuned: Path, merged: Path) -> Path:
    """Return the folder with the tuned model's weights: `merged`, or `tuned` if merged is only a reference to it.

    Raises Outage when the manifest of `merged` lists files that are missing.
    """
    if not (merged / MANIFEST).is_file():
        return merged
    return tuned if read_manifest(merged).same_as == "tuned" else merged


def describe_files(path: Path, known_digests: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """List every file below `path` with size and sha256; hashes several files in parallel."""
    names = sorted(
        str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and file != path / MANIFEST
    )
    known = known_digests or {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = pool.map(lambda name: known.get(name) or sha256_of(path / name), names)
        return {
            name: {"size": (path / name).stat().st_size, "sha256": digest}
            for name, digest in zip(names, digests, strict=True)
        }


def sha256_of(file: Path) -> str:
    """Hash one file in blocks."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def follow_umask(folder: Path) -> None:
    """Give every file below `folder` the permissions of a file that this process opens.

    Libraries write weights through a temporary file, which only its owner can read, and then rename it.
    """
    forbidden = _umask()
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            if not os.path.islink(path):
                now = stat.S_IMODE(os.stat(path).st_mode)
                mode = now & 0o7000 | (0o777 if name in folders else 0o666) & ~forbidden
                if now != mode:
                    os.chmod(path, mode)


def _umask() -> int:
    """Return the process's umask, where possible without changing it: other threads may create files."""
    try:
        told = re.search(r"^Umask:\s*([0-7]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        told = None
    if told:
        return int(told[1], 8)
    os.umask(forbidden := os.umask(0o077))
    return forbidden


def write_durably(file: Path, text: str) -> None:
    """Write a small text file atomically: complete on disk or absent, also after a power failure."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        error.filename = error.filename or str(file)  # a write names none, and so tells no volume
        with suppress(OSError):
            temporary.unlink()
        raise


@cache
def code_digest(*others: Path) -> str:
    """Digest this project's own step code and `others`: a changed step must not reuse results of the old code."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")):
        if file.suffix in {".py", ".html", ".css", ".jinja"}:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    for file in others:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def disk_full(path: Path, draft: Path, error: BaseException) -> OutOfResources | None:
    """Return the error for a full volume, with what was written of a folder that belongs to `path`; None for others."""
    if isinstance(error, StepError) or not is_out_of_space(error):
        return None
    full = exhausted(error, str(path), path)
    wrote, before = size_of(draft), size_of(path)
    if full and max(wrote, before) > TELLING:
        (problem,) = full.problems
        need = (
            f"about {told_of(before)} of space, as before" if before > wrote else f"more than {told_of(wrote)} of space"
        )
        found = f"{problem.found}, after {told_of(wrote)} of this folder were written"
        full = OutOfResources(Problem("DISK-E0101", str(path), found, need, problem.fix))
    return full


def size_of(folder: Path) -> int:
    """Return how many bytes the files below a folder have; 0 without one."""
    with suppress(OSError):
        return sum(file.lstat().st_size for file in folder.rglob("*"))
    return 0


def _replace(draft: Path, path: Path) -> None:
    old = path.with_name(f"{path.name}.tmp-old-{os.getpid()}")
    if path.is_dir():
        os.rename(path, old)  # deleting it in place would expose a partly deleted folder
    os.rename(draft, path)
    shutil.rmtree(old, ignore_errors=True)


def _gone(path: Path, found: str) -> Outage:
    return Outage(
        Problem(
            "ARTIFACT-E0101",
            str(path),
            found,
            "a complete artifact folder",
            "run again with caching off, so that the step that writes it runs again",
        ),
        transient=False,
    )
