"""Answer rows in one process: the requests that have no answer yet, window by window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from steps.generate.asking import Asking, windows
from steps.generate.journal import ENGINE, Journal
from steps.generate.rows import InputRows
from steps.generation import engines
from steps.generation.requests import Completion, Engine, Request
from steps.params.settings import GenerateSettings
from steps.stopping import Stopped, was_asked_to_stop

WINDOW = 4096  # requests that an engine is given at a time, to sort and batch


class Counter(Protocol):
    """Who counts the answers."""

    def add(self, completion: Completion) -> None:
        """Count an answer."""


@dataclass(frozen=True)
class Inputs:
    """What is answered, and by what."""

    settings: GenerateSettings
    model: Path | None
    adapter: Path | None
    data: Path


@dataclass(frozen=True)
class Share:
    """The rows of one process: those whose number divided by `count` leaves `rank`."""

    rank: int = 0
    count: int = 1

    def has(self, row: int) -> bool:
        """Return whether a row is this process's."""
        return row % self.count == self.rank


def opened(inputs: Inputs, journal: Journal, rank: int = 0) -> Engine:
    """Open the engine, and note what it is for the manifest."""
    engine = engines.open_engine(inputs.settings, inputs.model, inputs.adapter)
    if rank == 0:
        journal.keep(ENGINE, {"name": engine.name, "versions": engine.versions})
    return engine


def answer(inputs: Inputs, engine: Engine, journal: Journal, counter: Counter, share: Share | None = None) -> None:
    """Ask for the answers that the journal lacks, and append them as they come. Raises as the engine, and Stopped."""
    mine = share or Share()
    rows = InputRows(inputs.data, inputs.settings)
    asking = Asking(inputs.settings.decoding, inputs.model, inputs.data)
    for segment in range(rows.segments):
        with journal.written(segment, mine.rank) as part:
            for window in windows(_missing(rows, asking, journal, segment, mine), WINDOW):
                for request, completion in _completed(engine, window):
                    part.write(request, completion)
                    counter.add(completion)
                    if was_asked_to_stop():  # what it raised was lost
                        raise Stopped


def _missing(rows: InputRows, asking: Asking, journal: Journal, segment: int, share: Share) -> Iterator[Request]:
    there = journal.answered(segment)
    for row in rows.between(*rows.bounds(segment)):
        if share.has(row.number):
            yield from asking.requests(row, there.get(row.number, ()))


def _completed(engine: Engine, window: list[Request]) -> Iterator[tuple[Request, Completion]]:
    """Give each request with its answer. Raises RuntimeError if an engine breaks its promise: each once."""
    left = set(range(len(window)))
    for index, completion in engine.complete(window):
        left.remove(index)
        yield window[index], completion
    if left:
        raise RuntimeError(f"{engine.name} answered {len(window) - len(left)} of {len(window)} requests")
