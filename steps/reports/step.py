"""The run report, as a step: it needs no GPU and no torch."""

from __future__ import annotations

from pathlib import Path

from steps.artifacts import read_manifest
from steps.reports import write_run_report

KINDS = {"plan": ("plan",), "data": ("data",), "tuned": ("model", "adapter"), "evaluation": ("evaluation",)}


def report(plan: Path, data: Path, tuned: Path, evaluation: Path, report: Path) -> None:
    """Write one HTML page about a whole run.

    Raises UserError when a folder is of another kind, Outage when one is gone or cut.
    """
    folders = {"plan": plan, "data": data, "tuned": tuned, "evaluation": evaluation}
    for name, kind in KINDS.items():
        read_manifest(folders[name], kind)
    write_run_report(**folders, file=report)
