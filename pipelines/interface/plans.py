"""plan: check parameters, data and model, and tell what would run, without running it."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.interface.failed import RunStopped, python_words
from pipelines.interface.given import Parameters, given
from pipelines.interface.page import framed
from pipelines.interface.process import Stopped, do


@dataclass(frozen=True, repr=False)
class Plan:
    """What would run."""

    summary: dict[str, Any]
    """The plan as data, as `finetune plan --json` prints it."""
    text: str
    """The plan as `finetune plan` prints it."""
    page: str = field(repr=False)
    """The plan's report: one HTML page."""

    @property
    def parameters(self) -> dict[str, Any]:
        """Every parameter with the value that it has in this run."""
        return dict(self.summary["effective"])

    @property
    def warnings(self) -> list[str]:
        """What was translated, or has no effect."""
        return list(self.summary["warnings"])

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The tasks in their order, and what each requests on a cluster."""
        return list(self.summary["tasks"])

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return framed(self.page)


@python_words()
def plan(pipeline: str, parameters: Parameters = None, root: str | os.PathLike[str] = "runs", **more: Any) -> Plan:
    """Check parameters, data and model of a run, and return what would run; nothing is trained and nothing is left.

    `parameters` are a dict by name or the path of a configuration file; parameters that are given as keywords override
    them. `root` is the folder that a run would write to. Raises UserError, SecurityRefusal, Outage or OutOfResources
    with every problem of that kind, and RunStopped after an interrupt.
    """
    name, values = given(pipeline, parameters, more)
    told: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            do("plan", folder, told.append, pipeline=name, given=values, root=str(root))
        except Stopped:
            raise RunStopped("the plan was stopped") from None
        summary = json.loads((folder / "plan" / "plan.json").read_text("utf-8"))
        return Plan(summary, "\n".join(told), (folder / "plan.html").read_text("utf-8"))
