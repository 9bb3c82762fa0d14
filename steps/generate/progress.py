"""What a run says while it answers: rows, tokens per second, time left."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from steps.artifacts import write_durably
from steps.generation.requests import Completion

log = logging.getLogger("finetune")

EVERY = (10.0, 60.0)  # seconds between two lines, at the beginning and after some time
LINES = 20  # in the time that a run has taken, until there is one a minute
COUNTS = "counts-*.json"
TOLD_EVERY = 1.0  # seconds between what a process of several tells


@dataclass
class Counts:
    """What one process has answered."""

    answers: int = 0
    tokens: int = 0

    def add(self, completion: Completion) -> None:
        """Count an answer."""
        self.answers += 1
        self.tokens += completion.completion_tokens

    def joined(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(self.answers + other.answers, self.tokens + other.tokens)


@dataclass
class Progress:
    """The answers of a run, and of earlier runs that it goes on from."""

    rows: int
    samples: int
    before: int = 0
    """Answers of earlier runs."""
    counts: Counts = field(default_factory=Counts)
    """Answers of this run."""
    seconds: float = 0.0
    """Of answering, in this run."""
    _began: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    @property
    def rows_done(self) -> int:
        """Rows with all their answers, if answers come row by row."""
        return (self.before + self.counts.answers) // self.samples

    def begin(self) -> None:
        """Start the clock: the model is loaded."""
        self._began = self._said = time.monotonic()
        done = f", {self.before // self.samples:,} of which are answered already" if self.before else ""
        log.info("answering %s rows%s", f"{self.rows:,}", done)

    def add(self, completion: Completion) -> None:
        """Count an answer, and say how far the run is from time to time."""
        self.counts.add(completion)
        self.look()

    def look(self) -> None:
        """Say how far the run is, if that was long ago."""
        now = time.monotonic()
        self.seconds = now - self._began
        shortest, longest = EVERY
        if now - self._said >= min(max(self.seconds / LINES, shortest), longest):
            self._said = now
            log.info("%s", self.line())

    def line(self) -> str:
        """Return a line of the log."""
        rate = self.counts.answers / max(self.seconds, 1e-9)
        left = self.rows * self.samples - self.before - self.counts.answers
        seconds = round(left / rate) if rate else 0
        hours, minutes = divmod(seconds // 60, 60)
        clock = f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"
        return f"row {self.rows_done:,}/{self.rows:,}  {self.tokens_per_second:,.0f} tokens/s  {clock} left"

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens of this run per second."""
        return self.counts.tokens / max(self.seconds, 1e-9)

    @contextmanager
    def of_processes(self, folder: Path) -> Iterator[None]:
        """Say how far the processes are that tell their counts in a folder, until the block ends."""
        over, before = threading.Event(), self.counts  # of processes that were lost

        def update() -> None:
            self.counts = before.joined(told_in(folder))
            if self.counts.answers == before.answers == 0 and not any(folder.glob(COUNTS)):
                self._began = self._said = time.monotonic()  # models are being loaded
            self.look()

        def watch() -> None:
            while not over.wait(TOLD_EVERY):
                update()

        watching = threading.Thread(target=watch, name="progress", daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()
            update()


class Telling:
    """The counts of one process of several, in a file for the process that started it."""

    def __init__(self, file: Path):
        self._file = file
        self._counts = Counts()
        self._told = 0.0

    def add(self, completion: Completion) -> None:
        """Count an answer."""
        self._counts.add(completion)
        if time.monotonic() - self._told > TOLD_EVERY:
            self.tell()

    def tell(self) -> None:
        """Write the counts."""
        self._told = time.monotonic()
        write_durably(self._file, json.dumps(asdict(self._counts)))


def counts_file(folder: Path, rank: int) -> Path:
    """Return where a process tells its counts."""
    return folder / f"counts-{rank:03}.json"


def told_in(folder: Path) -> Counts:
    """Return the sum of what the processes have told."""
    total = Counts()
    for file in folder.glob(COUNTS):
        total = total.joined(Counts(**json.loads(file.read_bytes())))
    return total
