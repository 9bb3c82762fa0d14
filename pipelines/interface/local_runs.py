"""run: a run on this machine, and its result."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.client.display import table
from pipelines.interface.failed import RunFailed, RunStopped, python_words
from pipelines.interface.given import Parameters, given
from pipelines.interface.page import framed
from pipelines.interface.process import Stopped, do
from pipelines.live import shown_lines

if TYPE_CHECKING:
    from pandas import DataFrame


class Result:
    """A run that ended. `facts` is the content of its result.json, which has everything that is here."""

    def __init__(self, facts: dict[str, Any]):
        self.facts = facts

    @property
    def status(self) -> str:
        """ "succeeded" or "failed"."""
        return str(self.facts["status"])

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Metrics on the test rows, of the "base" and the "tuned" model; empty where nothing was measured.

        Of batch inference with right answers those of the "answers".
        """
        return dict(self.facts["metrics"])

    @property
    def gate(self) -> dict[str, Any] | None:
        """What the gate said: `passed` and its `reason`; None if it was not reached."""
        return self.facts["gate"]

    @property
    def passed(self) -> bool:
        """Whether the tuned model passed the gate."""
        return bool((self.gate or {}).get("passed"))

    @property
    def version(self) -> dict[str, Any] | None:
        """The registered version (`name`, `version`, `alias`, `model_uri`); None if none was registered."""
        return self.facts["registered"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter with the value that it had."""
        return dict(self.facts["parameters"]["effective"])

    @property
    def folder(self) -> Path:
        """The run's folder, with result.json, report.html and log.txt."""
        return Path(self.facts["folder"])

    @property
    def log(self) -> Path:
        """What the steps and their libraries printed."""
        return self.folder / "log.txt"

    @property
    def report(self) -> Path | None:
        """The report: one HTML page."""
        return self._path("report")

    @property
    def model(self) -> Path | None:
        """The folder of the tuned model."""
        return self._path("model")

    @property
    def error(self) -> dict[str, Any] | None:
        """Why the run failed; None if it did not."""
        return self.facts["error"]

    def table(self) -> DataFrame:
        """Return the metrics: a row for each, columns base and tuned."""
        from pandas import DataFrame

        return DataFrame(self.metrics)

    def _path(self, name: str) -> Path | None:
        path = self.facts["artifacts"].get(name)
        return Path(path) if path else None

    def __repr__(self) -> str:
        from pipelines.runs import screen

        problems = self.error["problems"] if self.error else []
        return "\n".join([screen(self.facts).strip("\n"), *problems])

    def _repr_html_(self) -> str:
        base, tuned = self.metrics.get("base", {}), self.metrics.get("tuned", {})
        measured = [(name, f"{base[name]:.4f}", f"{tuned[name]:.4f}") for name in tuned if name in base]
        version = self.version
        told = [
            ("run", f"{self.facts['pipeline']}, {self.status} in {self.facts['seconds']:.0f} s"),
            ("gate", (self.gate or {}).get("reason")),
            ("version", f"{version['name']} {version['version']} ({version['model_uri']})" if version else None),
            ("reused", ", ".join(self.facts["reused"])),
            ("error", "\n".join(self.error["problems"]) if self.error else None),
            ("result", self._path("result")),
            ("answers", self._path("generations")),
            ("report", self.report),
            ("model", self.model),
            ("log", self.log if self.error else None),
        ]
        scores = [(name, f"{value:.4f}") for name, value in self.metrics.get("answers", {}).items()
                  if value is not None]  # fmt: skip
        parts = [table(("", ""), [row for row in told if row[1]])]
        parts += [table(("", "answers"), scores)] if scores else []
        parts += [table(("", "base", "tuned"), measured)] if measured else []
        if self.report and self.report.is_file():
            parts.append(framed(self.report.read_text("utf-8")))
        return "\n".join(parts)


@python_words()
def run(
    pipeline: str,
    parameters: Parameters = None,
    root: str | os.PathLike[str] = "runs",
    cache: bool = True,
    show: bool = True,
    **more: Any,
) -> Result:
    """Run a pipeline on this machine, print its lines as they come (`show`), and return its result.

    `parameters` are a dict by name or the path of a configuration file; parameters that are given as keywords override
    them. Everything is written below `root`; with `cache`, steps whose inputs did not change are reused from earlier
    runs. An interrupt stops the run as Ctrl-C stops `finetune run`: a training saves a checkpoint first.

    Raises UserError before anything is written if a parameter is wrong, RunFailed if a step fails, RunStopped after an
    interrupt; the last two carry the `result`.
    """
    name, values = given(pipeline, parameters, more)
    values = {"pipeline": name, "given": values, "root": os.path.abspath(root), "cache": cache}
    with tempfile.TemporaryDirectory() as scratch:
        try:
            facts = do("run", Path(scratch), shown_lines(show), **values)
        except Stopped as stopped:
            raise _stopped(stopped.answer) from None
    result = Result(facts)
    if result.error:
        raise RunFailed(result.error, result)
    return result


def _stopped(facts: dict[str, Any] | None) -> RunStopped:
    if facts is None:
        return RunStopped("the run was stopped, and has no result")
    result = Result(facts)
    return RunStopped("\n".join(result.error["problems"]) if result.error else "the run had ended", result)
