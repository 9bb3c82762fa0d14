"""A sweep as an object: looked at while it runs, waited for, stopped, and opened again by its name."""

from __future__ import annotations

import contextlib
import html
import os
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.sweeping.folder import BEGUN, DESCRIPTION, REPORT, SweepFolder, existing, sweep_folder, write_json
from pipelines.sweeping.run import OUTCOME, outcome_of, start
from pipelines.sweeping.told import Told, no_facts
from steps.errors import Problem, StepError, UserError

if TYPE_CHECKING:
    from pipelines.sweeping.described import Described


class SweepFailed(StepError):
    """A sweep ended with an error; `outcome` is that of the step that failed."""

    def __init__(self, outcome: dict[str, Any]):
        self.outcome = outcome
        self.exit_code = outcome["code"]
        problem = Problem("SWEEP-E0305", outcome["step"], outcome["found"], outcome["expected"], outcome["fix"])
        super().__init__(problem)

    def __str__(self) -> str:
        return "\n".join(self.outcome["problems"])


class Sweep(Told):
    """A sweep on this machine; it runs in a process of its own, which does not end with this one."""

    def __init__(self, folder: SweepFolder):
        self.folder = folder

    @classmethod
    def open(cls, name: str, root: str | Path = "runs") -> Sweep:
        """Return a sweep that was started before. Raises UserError for an unknown name."""
        return cls(existing(Path(root), name))

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def state(self) -> str:
        """running, finished, failed or stopped; a sweep whose process was killed is stopped."""
        if self.folder.driver() is not None or self._begins():
            return "running"
        outcome = outcome_of(self.folder)
        return outcome["state"] if outcome else "stopped"

    @property
    def facts(self) -> dict[str, Any]:
        """All that is known of it: the content of sweep.json."""
        return self.folder.facts or no_facts()

    @property
    def report(self) -> Path | None:
        """The page with plots and tables; None before the best trial was chosen."""
        file = self.folder.path / REPORT
        return file if file.is_file() else None

    def wait(self, show: bool = True, timeout: float | None = None) -> Sweep:
        """Wait until it has ended, with one line of progress; Ctrl-C ends the waiting only.

        Raises SweepFailed if it failed, TimeoutError after `timeout` seconds.
        """
        from pipelines.sweeping.progress import Progress

        limit = None if timeout is None else time.monotonic() + timeout
        with Progress(self) if show else contextlib.nullcontext() as progress:
            while self.folder.driver() is not None or self._begins():
                if progress:
                    progress.update()
                if limit is not None and time.monotonic() > limit:
                    raise TimeoutError(f"{self.name} still runs")
                time.sleep(0.3)
            if progress:
                progress.update(last=True)
        outcome = outcome_of(self.folder)
        if outcome and outcome["state"] == "failed":
            raise SweepFailed(outcome["error"])
        return self

    def stop(self, seconds: float = 60) -> Sweep:
        """Stop it: running trials save a checkpoint, from which `resume` goes on."""
        process = self.folder.driver()
        if process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
        limit = time.monotonic() + seconds
        while self.folder.driver() is not None and time.monotonic() < limit:
            time.sleep(0.1)
        return self

    def resume(self) -> Sweep:
        """Go on with a sweep that was stopped or killed: finished trials are not run again."""
        if self.folder.driver() is None:
            (self.folder.path / OUTCOME).unlink(missing_ok=True)  # of the earlier process
            self._started = time.monotonic()
            start(self.folder)
        return self

    def _begins(self) -> bool:
        """Return whether its process has been started, and does not hold the sweep yet."""
        started = getattr(self, "_started", None)
        if started is None or outcome_of(self.folder) is not None:
            return False
        return time.monotonic() - started < 30

    def __repr__(self) -> str:
        from pipelines.sweeping.table import as_text

        return as_text(self.facts, f"sweep {self.name}: {self.state}")

    def _repr_html_(self) -> str:
        from pipelines.interface.page import framed
        from pipelines.sweeping.table import as_html

        page = framed(self.report.read_text("utf-8")) if self.report else ""
        return as_html(self.facts, f"sweep {html.escape(self.name)}: {self.state}") + page


def begin(described: Described, root: Path) -> SweepFolder:
    """Create the folder of a sweep, or return that of the same one, begun before.

    A larger budget and another max_parallel may be given to a sweep that was begun. Raises UserError for a name that
    another sweep has.
    """
    name = described.name or f"{described.pipeline}-{datetime.now():%Y%m%d-%H%M%S}"
    folder = sweep_folder(root, name)
    wanted = {**described.as_json(), "name": name}
    file = folder.path / DESCRIPTION
    if file.is_file():
        known = folder.described.as_json()
        differ = [key for key, value in wanted.items() if value != known.get(key) and key != "max_parallel"]
        if differ == ["budget"] and (known["budget"] or 0) < (wanted["budget"] or 0):
            differ = []
        if differ:
            raise UserError(
                Problem("SWEEP-E0306", "name", f"{name}, a sweep with other {', '.join(differ)}", "a new name, or the "
                        "same sweep", "choose another name, or open the sweep by its name alone")
            )  # fmt: skip
    else:
        write_json(folder.path / BEGUN, {"folder": os.getcwd()})
    write_json(file, wanted)
    return folder
