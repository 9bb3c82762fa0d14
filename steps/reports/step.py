"""The step that writes the run report; needs neither GPU nor torch."""

from __future__ import annotations

from pathlib import Path

from steps.artifacts import read_manifest
from steps.reports import write_run_report

KINDS = {"plan": ("plan",), "data": ("data",), "tuned": ("model", "adapter"), "evaluation": ("evaluation",)}


def report(plan: Path, data: Path, tuned: Path, evaluation: Path, report: Path) -> None:
    """Write one HTML page about a whole run.

    Raises UserError for a folder of another kind, Outage for one that is missing or incomplete.
    """
    folders = {"plan": plan, "data": data, "tuned": tuned, "evaluation": evaluation}
    for name, kind in KINDS.items():
        read_manifest(folders[name], kind)
    write_run_report(**folders, file=report)
