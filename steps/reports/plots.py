"""The charts of an evaluation as separate files, for slides and papers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from steps.artifacts import write_durably
from steps.reports.charts import Chart, confusion_matrix, roc_curve

STYLE = Path(__file__).parent / "templates" / "style.css"


def write_plots(folder: Path, measured: dict[str, Any]) -> None:
    """Write confusion_matrix.svg and roc_curve.svg if there are metrics of labels; else nothing."""
    labels = measured.get("labels") or {}
    charts: dict[str, Chart] = {}
    if confusion := labels.get("confusion"):
        charts["confusion_matrix"] = confusion_matrix(confusion["names"], confusion["counts"])
    if roc := labels.get("roc"):
        charts["roc_curve"] = roc_curve(roc)
    for name, chart in charts.items():
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / f"{name}.svg", alone(str(chart.svg)))


def alone(svg: str) -> str:
    """Convert a chart that takes its colours from the page to a self-contained one."""
    light = STYLE.read_text(encoding="utf-8").partition("}")[0]  # the first rule defines the colours of light mode
    colours = dict(re.findall(r"--([\w-]+):\s*([^;]+);", light))
    svg = re.sub(r"var\(--([\w-]+)\)", lambda found: colours.get(found[1], "#000000"), svg)
    return svg if "xmlns=" in svg else svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
