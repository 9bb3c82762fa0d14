"""The answers so far: one line of JSON each, in parts that are never opened again for writing.

A part holds answers to rows of one segment, by one process of one run. While it is written it is called NAME.open, then
NAME.jsonl. A process that is killed leaves a part whose last line may be torn: a line counts only if it is whole. So
nothing has to be repaired, and an answer that is there twice counts once. Each line ends with a checksum of itself: a
line that was changed does not count either.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import NoneType
from typing import IO, Any

import orjson

from steps.artifacts import write_durably
from steps.errors import Outage, Problem
from steps.generation.requests import Completion, Request
from steps.params.checked_json import sealed, unsealed

SUM = b',"sum":"'
OPEN, CLOSED = ".open", ".jsonl"
SYNC_SECONDS = 1.0  # between writes to the disk itself: a power failure loses no more
SURVEY, ENGINE = "survey.json", "engine.json"
SMALL_FILES = (SURVEY, ENGINE)
VALUES = {"row": int, "sample": int, "text": str, "finish_reason": str, "prompt_tokens": int,
          "completion_tokens": int, "truncated": bool}  # fmt: skip
OPTIONAL = {"prompt_text": str, "token_ids": list, "logprobs": list}


@dataclass(frozen=True)
class Place:
    """Where the line of an answer is."""

    file: Path
    start: int
    size: int


class Journal:
    """The folder of the answers of one run, which it shares with earlier runs of the same inputs and settings."""

    def __init__(self, folder: Path, part_seconds: float = float("inf"), place: str = ""):
        """A part is closed after `part_seconds` at the latest, so that it can be uploaded to `place`."""
        self.folder = folder
        self.place = place or str(folder)
        self.part_seconds = part_seconds

    def parts(self, segment: int) -> list[Path]:
        """Return the parts of a segment, the oldest first; a part that was closed just now is there once."""
        found = {file.stem: file for ending in (OPEN, CLOSED) for file in self.folder.glob(f"{segment:06}-*{ending}")}
        return [found[name] for name in sorted(found)]

    def close_leftovers(self) -> None:
        """Close the parts of processes that were killed; only for who has locked the folder."""
        for file in self.folder.glob(f"*{OPEN}"):
            file.rename(file.with_suffix(CLOSED))

    def lines(self, segment: int) -> Iterator[tuple[dict[str, Any], Place]]:
        """Give the whole lines of a segment, and where each of them is."""
        for file in self.parts(segment):
            start = 0
            with _opened(file) as stream:
                for line in stream:
                    if (read := _answer(line)) is not None:
                        yield read, Place(file, start, len(line))
                    start += len(line)

    def places(self, segment: int) -> dict[tuple[int, int], Place]:
        """Return (row, sample) → place of its answer, the first one if there are several."""
        found: dict[tuple[int, int], Place] = {}
        for answer, place in self.lines(segment):
            found.setdefault((answer["row"], answer["sample"]), place)
        return found

    def answered(self, segment: int) -> dict[int, set[int]]:
        """Return row → samples that are there."""
        found: dict[int, set[int]] = {}
        for row, sample in self.places(segment):
            found.setdefault(row, set()).add(sample)
        return found

    def written(self, segment: int, rank: int) -> Part:
        """Begin a part of a segment."""
        return Part(self.folder, f"{segment:06}-{time.time_ns():020}-{rank:03}", self.part_seconds)

    def keep(self, name: str, value: Any) -> None:
        """Store a small JSON value beside the answers."""
        write_durably(self.folder / name, sealed(value))

    def kept(self, name: str) -> Any:
        """Return a value that was kept; None if there is none, or another one than was kept."""
        try:
            return unsealed((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return None


def read_at(place: Place, opened: dict[Path, IO[bytes]]) -> dict[str, Any]:
    """Read the answer at a place; `opened` keeps the files open between calls. Raises Outage if it was changed."""
    if place.file not in opened:
        opened[place.file] = open(place.file, "rb")  # noqa: SIM115  (closed by the caller)
    opened[place.file].seek(place.start)
    answer = _answer(opened[place.file].read(place.size))
    if answer is None:
        raise Outage(
            Problem("GEN-E0402", f"{place.file}: byte {place.start}", "an answer with other bytes than it had before",
                    "the answer as it was written", "run again: only what is missing is answered again")
        )  # fmt: skip
    return answer


def _opened(file: Path) -> IO[bytes]:
    try:
        return open(file, "rb")
    except FileNotFoundError:  # another process has closed it just now
        return open(file.with_suffix(CLOSED), "rb")


class Part:
    """A part that is being written: every answer is handed to the system at once, and to the disk every second.

    A part that gets too old is closed, and goes on under another name.
    """

    def __init__(self, folder: Path, name: str, seconds: float):
        self._folder, self._name, self._seconds = folder, name, seconds
        self._number = 0
        self._stream: IO[bytes] | None = None
        self._began = self._synced = 0.0

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, request: Request, completion: Completion) -> None:
        """Append an answer. The prompt is written with the first answer to a row only."""
        now = time.monotonic()
        if self._stream and now - self._began > self._seconds:
            self.close()
        if self._stream is None:
            self._number += 1
            self._stream = open(self._file(OPEN), "xb")  # noqa: SIM115  (closed by close)
            self._began = self._synced = now
        self._stream.write(_line(request, completion))
        self._stream.flush()
        if now - self._synced > SYNC_SECONDS:
            os.fsync(self._stream.fileno())
            self._synced = now

    def close(self) -> None:
        """Close the part, if it has begun."""
        if self._stream is None:
            return
        os.fsync(self._stream.fileno())
        self._stream.close()
        self._stream = None
        self._file(OPEN).rename(self._file(CLOSED))

    def _file(self, ending: str) -> Path:
        return self._folder / f"{self._name}-{self._number:04}{ending}"


def _line(request: Request, completion: Completion) -> bytes:
    told = {"row": request.row, "sample": request.sample, **asdict(completion)}
    if request.sample == 0:
        told["prompt_text"] = request.prompt
    if completion.logprobs is None:
        del told["logprobs"], told["token_ids"]
    for name in ("text", "prompt_text"):
        if name in told:
            told[name] = encodable(told[name])
    return with_sum(told)


def with_sum(told: dict[str, Any]) -> bytes:
    """Return the line of an answer; the last key is a checksum of the text before it."""
    text = orjson.dumps(told)[:-1]
    return text + SUM + _sum(text) + b'"}\n'


def _sum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:16].encode()


def encodable(text: str) -> str:
    """Replace halves of surrogate pairs, which a server may send and UTF-8 does not have, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _answer(line: bytes) -> dict[str, Any] | None:
    """Read a line; None if it is torn or damaged."""
    text, found, rest = line.rpartition(SUM)
    if not found or rest != _sum(text) + b'"}\n':
        return None
    try:
        answer = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(answer, dict) or not _is_whole(answer):
        return None
    del answer["sum"]
    return answer


def _is_whole(answer: dict[str, Any]) -> bool:
    """Return whether a line has every value of an answer; another one would be found hours later."""
    return all(type(answer.get(name)) is kind for name, kind in VALUES.items()) and all(
        type(answer.get(name)) in (kind, NoneType) for name, kind in OPTIONAL.items()
    )
