"""Write, describe and check artifacts, the folders that steps pass to each other.

Every artifact is a folder with a `manifest.json` that lists its files with size and sha256. It is written beside its
final path and renamed as the last operation, so a folder at its final path is complete.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from steps.errors import Outage, OutOfResources, Problem, StepError, UserError
from steps.exhausted import exhausted, is_out_of_space
from steps.params.checked_json import CHECKSUM, checksum_of
from steps.params.text_file import read_json
from steps.volumes import told_of

log = logging.getLogger("finetune")

MANIFEST = "manifest.json"
BLOCK = 8 * 1024 * 1024
LARGEST_MANIFEST = 64 * 1024 * 1024  # bytes; that of a model of a thousand shards has a quarter of one
CHECKPOINTS = "checkpoints"  # folder in an artifact that no manifest describes: each checkpoint has its own
# Suffixes of files that libraries look for by their names; of others, such as a note, nothing depends.
LOADED = {".json", ".jsonl", ".jinja", ".txt", ".model", ".safetensors", ".bin", ".pt", ".py", ".parquet", ".arrow"}
SHA256 = re.compile(r"[0-9a-f]{64}")
CLOCK_TICK = 50_000_000  # nanoseconds; two changes of a file that are this far apart have different times
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
        flush(draft.path)
        files = describe_files(draft.path, draft.known_digests)
        manifest = Manifest(kind, files, {"code": code_digest(), **(lineage or {})}, draft.facts, draft.same_as)
        write_durably(draft.path / MANIFEST, manifest_text(manifest))
        _replace(draft.path, path)
    except BaseException as error:
        full = disk_full(path, draft.path, error)  # before the draft's own space is free again
        shutil.rmtree(draft.path, ignore_errors=True)
        if full:
            raise full from error
        raise


def read_manifest(path: Path, kind: str | tuple[str, ...] = ()) -> Manifest:
    """Read an artifact's manifest and compare every file with its sha256: nothing in it may be trusted before.

    A file that this process has hashed or written before, and that did not change since, is not read again. Raises
    Outage with the name of what is missing, damaged or changed, UserError for another kind of artifact.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    manifest = manifest_alone(path)
    if kinds and manifest.kind not in kinds:
        expected = " or ".join(kinds)
        raise UserError(
            Problem("ARTIFACT-E0102", str(path), f"a folder of kind {manifest.kind}", expected, f"pass the {expected}")
        )
    for name, entry in manifest.files.items():
        size = _size_of(path / name)
        if size is None:
            raise _gone(path, f"{name} missing")
        if size != entry["size"]:
            raise _gone(path, f"{name} with {size} bytes instead of {entry['size']}")
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = pool.map(lambda name: sha256_of(path / name), manifest.files)
        for (name, entry), now in zip(manifest.files.items(), digests, strict=True):
            if now != entry["sha256"]:
                raise _gone(path, f"{name} with other content than was written: sha256 {now[:12]}",
                            f"sha256 {entry['sha256'][:12]}, as in {MANIFEST}")  # fmt: skip
    for name in _unlisted(path, manifest):
        _warn_of(path / name)
    return manifest


@cache
def _warn_of(file: Path) -> None:
    log.warning("WARNING %s is not in the manifest of its artifact, and may change the result", file)


def _unlisted(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield the files beside those of a manifest that libraries would read, such as adapter_config.json."""
    for folder, folders, files in os.walk(path):
        here = os.path.relpath(folder, path)
        if here == ".":
            folders[:] = [name for name in folders if name != CHECKPOINTS]
        for file in files:
            name = os.path.normpath(os.path.join(here, file))
            read = os.path.splitext(file)[1] in LOADED and not file.startswith(".")
            if read and name != MANIFEST and name not in manifest.files:
                yield name


def is_whole(path: Path, kind: str | tuple[str, ...] = ()) -> bool:
    """Return whether there is an artifact, with every byte as it was written."""
    try:
        read_manifest(path, kind)
    except (StepError, OSError):
        return False
    return True


def has_manifest(path: Path) -> bool:
    """Return whether a folder has a manifest, whatever that is by now; one that a user brings may have none."""
    return os.path.lexists(path / MANIFEST)


def manifest_alone(path: Path) -> Manifest:
    """Read what an artifact's manifest says, without a look at the files. Raises Outage if it is missing or damaged."""
    size = _size_of(path / MANIFEST)
    if size is None:  # nothing, a folder, or a pipe, which would never be read to its end
        raise _gone(path, f"no {MANIFEST}" + (" that is a file" if os.path.lexists(path / MANIFEST) else ""))
    if size > LARGEST_MANIFEST:
        raise _gone(path, f"a damaged {MANIFEST}")
    return parse_manifest((path / MANIFEST).read_bytes(), path)


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """Read the text of the manifest of the artifact at `path`. Raises Outage if the text is damaged."""
    try:
        told = read_json(text.decode("utf-8"))
        if "files" in told and CHECKSUM not in told:
            raise _gone(path, f"a {MANIFEST} without a checksum: it is damaged, or an earlier version wrote it")
        checksum, digest = told.pop(CHECKSUM), told["digest"]
        if checksum != checksum_of(told) or not all(map(_is_entry, told["files"].items())):
            raise ValueError
        del told["digest"]
        manifest = Manifest(**told)
        texts, objects = (manifest.kind, manifest.same_as), (manifest.facts, manifest.lineage)
        well_typed = all(isinstance(one, str) for one in texts) and all(isinstance(one, dict) for one in objects)
        if not well_typed or digest != manifest.digest:
            raise ValueError
    except (ValueError, TypeError, KeyError, AttributeError):
        raise _gone(path, f"a damaged {MANIFEST}") from None
    return manifest


def manifest_text(manifest: Manifest) -> str:
    """Return the text of a manifest, with the digest of the files and a checksum of all that it says."""
    told = json.loads(json.dumps({**asdict(manifest), "digest": manifest.digest}))  # keys are texts from here on
    return json.dumps({**told, CHECKSUM: checksum_of(told)}, indent=1)


def _size_of(file: Path) -> int | None:
    """Return the size of a regular file; None if there is none."""
    try:
        found = os.stat(file)
    except ValueError:  # no name that a file can have
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _is_entry(named: tuple[str, Any]) -> bool:
    """Return whether an entry of a manifest has a file inside the folder, and what is known of its content."""
    name, entry = named
    pure = PurePosixPath(name)
    inside = str(pure) == name and not pure.is_absolute() and ".." not in pure.parts and name not in ("", ".", MANIFEST)
    size, sha256 = entry["size"], entry["sha256"]
    return inside and type(size) is int and size >= 0 and isinstance(sha256, str) and bool(SHA256.fullmatch(sha256))


def resolve_model(tuned: Path, merged: Path) -> Path:
    """Return the folder with the tuned model's weights: `merged`, or `tuned` if merged is only a reference to it.

    Raises Outage when the manifest of `merged` lists files that are missing.
    """
    if not has_manifest(merged):
        return merged
    return tuned if read_manifest(merged).same_as == "tuned" else merged


def describe_files(path: Path, known_digests: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """List every file below `path` with size and sha256; hashes several files in parallel."""
    own = (path / MANIFEST, _draft_of(path / MANIFEST))  # the second is left by a process that was killed
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file() and file not in own)
    known = known_digests or {}
    for name in known.keys() & set(names):
        _remember(path / name, _state_of(path / name), known[name])
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = pool.map(lambda name: known.get(name) or sha256_of(path / name), names)
        return {
            name: {"size": (path / name).stat().st_size, "sha256": digest}
            for name, digest in zip(names, digests, strict=True)
        }


_hashed: dict[tuple[int, ...], str] = {}  # what the system tells of a file → its sha256


def sha256_of(file: Path) -> str:
    """Hash one file in blocks. One that this process has hashed, and that did not change since, is not read again."""
    state = _state_of(file)
    if state in _hashed:
        return _hashed[state]
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    _remember(file, state, digest.hexdigest())
    return digest.hexdigest()


def _state_of(file: Path) -> tuple[int, ...]:
    """Return what changes with a file's content: no program can set the time of the last change (ctime)."""
    found = os.stat(file)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _remember(file: Path, state: tuple[int, ...], digest: str) -> None:
    """Remember a file's sha256, unless it may still change without a change of its times."""
    if time.time_ns() - state[-1] > CLOCK_TICK and _state_of(file) == state:
        _hashed[state] = digest


def flush(folder: Path) -> None:
    """Write the files of a folder to the disk: a manifest must not outlive them when a node fails."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() or path.is_file():
            number = os.open(path, os.O_RDONLY)
            try:
                os.fsync(number)
            finally:
                os.close(number)


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


def write_durably(file: Path, content: str | bytes) -> None:
    """Write a small file atomically: complete on disk or absent, also after a power failure."""
    temporary = _draft_of(file)
    try:
        with open(temporary, "wb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError as error:
        error.filename = error.filename or str(file)  # a write names none, and so tells no volume
        with suppress(OSError):
            temporary.unlink()
        raise


def _draft_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.tmp")


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


def _gone(path: Path, found: str, expected: str = "a complete artifact folder") -> Outage:
    return Outage(
        Problem(
            "ARTIFACT-E0101",
            str(path),
            found,
            expected,
            "run again with caching off, so that the step that writes it runs again",
        ),
        transient=False,
    )
