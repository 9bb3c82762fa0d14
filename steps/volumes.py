"""Volumes: which one a path is on, how much room it has, and which one is full when an error does not say."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from steps.writing import mount_of, nearest_there

NEARLY_FULL = 16 * 1024 * 1024  # bytes; a library that ends its write leaves less than it wanted to write
TRIED = 1024 * 1024  # bytes of a file that shows whether a place takes one
ROOT = "FINETUNE_ROOT"  # where a local run writes (steps/running.py)
CACHES = ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")


@dataclass(frozen=True)
class Volume:
    """One file system, as it was when it was looked at."""

    place: Path
    """Where it is mounted."""
    size: int = 0
    free: int = 0
    files: int = 0
    """How many files it can have; 0 where that is not limited."""
    files_free: int = 0
    is_temporary: bool = False
    """Whether it holds the temporary files of this process."""

    @property
    def lacks_files(self) -> bool:
        """Return whether no further file can be created, although there may be space."""
        return self.files > 0 and self.files_free == 0

    @property
    def is_full(self) -> bool:
        """Return whether it takes no, or almost no further file."""
        return self.lacks_files or (self.size > 0 and self.free < NEARLY_FULL)

    @property
    def way_out(self) -> str:
        """Return what can be done if it is full."""
        other = (
            "use a larger volume, or set TMPDIR to a folder on one" if self.is_temporary else "or use a larger volume"
        )
        what = "files" if self.lacks_files else "disk space"
        return f"free {what} in {self.place}, {other}"

    def __str__(self) -> str:
        if self.lacks_files:
            return f"the volume {self.place} (0 of {self.files:,} files free; {told_of(self.free)} free)"
        return f"the volume {self.place} ({told_of(self.free)} of {told_of(self.size)} free)"


def volume_of(path: Path) -> Volume:
    """Return the volume that a path, which need not exist, is on."""
    there = nearest_there(path.absolute())
    place = mount_of(there)
    try:
        seen = os.statvfs(there)
        scratch = mount_of(nearest_there(_scratch()))
    except OSError:
        return Volume(place)
    files = seen.f_files if seen.f_files < 1 << 40 else 0  # some report a number without a meaning
    return Volume(place, seen.f_blocks * seen.f_frsize, seen.f_bavail * seen.f_frsize, files, seen.f_favail,
                  place == scratch)  # fmt: skip


def full_volume(path: str = "", others: tuple[Path, ...] = ()) -> Volume:
    """Return the volume of a path; without one, as a write names no file, the fullest of those that a step uses."""
    if path:
        return volume_of(Path(path))
    every = {seen.place: seen for seen in map(volume_of, (*others, *_written()))}
    return min(every.values(), key=lambda one: (not one.is_full, one.free))


def refusals(others: tuple[Path, ...] = ()) -> dict[Volume, int]:
    """Return the volumes of a step that take no further file, each with the number of the error, found by writing one.

    A write names no file, and some libraries drop the reason as well. A quota is used up where its volume has space.
    """
    tried = {path: _refusal(path) for path in (*others, *_written())}
    return {volume_of(path): number for path, number in tried.items() if number}


def _refusal(path: Path) -> int:
    """Return the number of the error with which the place of a path refuses a file; 0 if it takes one."""
    there = nearest_there(path.absolute())
    try:
        with tempfile.TemporaryFile(dir=there if there.is_dir() else there.parent) as file:
            file.write(bytes(TRIED))
            file.flush()
            os.fsync(file.fileno())  # only this tells of a disk that is broken
    except OSError as error:
        return error.errno or 0
    return 0


def told_of(size: int) -> str:
    """Tell a number of bytes in MB or GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


_places: list[Path] = []


def note_places(*paths: Path) -> None:
    """Remember where a step writes, so that an error of a write that names no file can be told with its volume."""
    _places[:] = [path for path in paths if path.is_absolute()]


def note_place(path: Path) -> None:
    """Remember one place more, such as a database."""
    if path.is_absolute() and path not in _places:
        _places.append(path)


def _written() -> list[Path]:
    named = [Path(found) for name in (ROOT, *CACHES) if (found := os.environ.get(name))]
    return [*_places, _scratch(), *named, *_own_cache(), *_here()]


def _own_cache() -> list[Path]:
    """Return where libraries keep what they download, if no variable says so and they have."""
    try:
        cache = Path.home() / ".cache" / "huggingface"
        return [cache] if cache.is_dir() else []
    except (RuntimeError, OSError):  # a user without a home, or with one of another user
        return []


def _here() -> list[Path]:
    try:
        return [Path.cwd()]
    except OSError:  # it was deleted
        return []


def _scratch() -> Path:
    return Path(tempfile.tempdir or os.environ.get("TMPDIR") or "/tmp")
