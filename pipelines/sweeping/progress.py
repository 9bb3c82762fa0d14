"""One line that tells how far a sweep is: it changes on a terminal and in a cell, and is printed anew elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pipelines.live import Line
from steps.params.sweep import ENDED

if TYPE_CHECKING:
    from pipelines.sweeping.cluster import ClusterSweep
    from pipelines.sweeping.handle import Sweep


class Progress:
    """Shows the progress of a sweep while it is waited for."""

    def __init__(self, sweep: Sweep | ClusterSweep):
        self.sweep = sweep
        self._line = Line()
        self._last = ""
        self._next = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._line.end()

    def update(self, last: bool = False) -> None:
        """Show the present state, at most once a second."""
        if not last and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1.0
        line = line_of(self.sweep.name, self.sweep.facts)
        if line != self._last:
            self._line.show(line)
            self._last = line


def line_of(name: str, facts: dict[str, Any]) -> str:
    """Return the progress of a sweep as one line."""
    trials = facts["trials"]
    if not trials:
        return f"{name}: begins"
    ended = [trial for trial in trials if trial["state"] in ENDED]
    running = [trial for trial in trials if trial["state"] == "running"]
    told = [f"{name}: {len(ended)} of {facts.get('total', len(trials))} trials"]
    for state in ("failed", "pruned"):
        if count := sum(trial["state"] == state for trial in ended):
            told.append(f"{count} {state}")
    for trial in running:
        told.append(f"{trial['number']} at step {trial.get('steps') or 0}/{trial.get('max_steps') or '?'}")
    best = next((trial for trial in trials if trial["best"]), None)
    if best:
        told.append(f"best {facts['metric']} {best['score']:.6g} (trial {best['number']})")
    return ", ".join(told)
