"""Drawings as SVG that takes its colours and its font from the page around it.

matplotlib knows no CSS: it draws in stand-in colours, which are then replaced by the page's variables, so one drawing
serves light and dark. Equal facts give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS_DRAWN = 400
WIDE = 50  # a loss that falls by more than this factor is drawn on a log scale

# Stand-in colour → variable of style.css.
PAPER, MUTED, GRID, FIRST, SECOND, GOOD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
VARIABLES = {
    PAPER: "--paper", MUTED: "--muted", GRID: "--grid", FIRST: "--first", SECOND: "--second", GOOD: "--good"
}  # fmt: skip


class Chart:
    """A drawing and what its caption has to say about it."""

    def __init__(self) -> None:
        self.svg = Markup("")
        self.log_scale = False
        self.averaged = 1
        """Logged points behind one drawn point."""
        self.limited = False
        """Whether the limit on the length is in the picture."""


def loss_chart(points: list[dict[str, Any]], evaluations: list[dict[str, Any]], best: dict[str, Any] | None) -> Chart:
    """Draw training and validation loss over steps, with the best step marked."""
    chart = Chart()
    logged = [(point["step"], point["loss"]) for point in points if point.get("loss") is not None]
    held_out = [(point["step"], point["loss"]) for point in evaluations if point.get("loss") is not None]
    losses = [loss for _, loss in logged + held_out]
    chart.log_scale = bool(losses) and min(losses) > 0 and max(losses) / min(losses) > WIDE
    chart.averaged, logged = _thinned(logged)
    with _drawing(chart, "loss over steps") as axes:
        if chart.log_scale:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(_ticker().NullLocator())
        axes.yaxis.set_major_formatter(_ticker().FuncFormatter(lambda value, _: f"{value:g}"))
        if logged:
            axes.plot(*zip(*logged, strict=True), color=FIRST, linewidth=1.6)
        if held_out:
            axes.plot(*zip(*held_out, strict=True), color=SECOND, linewidth=1.6, marker="o", markersize=4.5)
        if best:
            axes.axvline(best["step"], color=GOOD, linewidth=1, linestyle=(0, (3, 3)))
            axes.plot(
                [best["step"]], [_loss_at(best, evaluations)], marker="o", markersize=8, markerfacecolor="none",
                markeredgecolor=GOOD, markeredgewidth=2,
            )  # fmt: skip
    return chart


def _loss_at(best: dict[str, Any], evaluations: list[dict[str, Any]]) -> float:
    """The validation loss of the best step, which another metric may have chosen."""
    return next((point["loss"] for point in evaluations if point["step"] == best["step"]), best["value"])


def rate_chart(points: list[dict[str, Any]]) -> Chart:
    """Draw the learning rate over steps."""
    chart = Chart()
    chart.averaged, rates = _thinned([(point["step"], point["learning_rate"]) for point in points])
    with _drawing(chart, "learning rate over steps") as axes:
        axes.yaxis.set_major_formatter(_ticker().FuncFormatter(_rate))
        axes.plot(*zip(*rates, strict=True), color=FIRST, linewidth=1.6)
        axes.set_ylim(bottom=0)
    return chart


def length_chart(histogram: dict[str, list], limit: int | None) -> Chart:
    """Draw how many rows have which length in tokens, and where they are cut."""
    chart = Chart()
    edges, counts = histogram["edges"], histogram["counts"]
    with _drawing(chart, "rows by length in tokens") as axes:
        widths = [right - left for left, right in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=FIRST, edgecolor=PAPER, linewidth=1)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        # Far from every row, the limit would squeeze them into a corner; the table beside the chart names it.
        chart.limited = limit is not None and limit <= 1.5 * edges[-1]
        if chart.limited and limit is not None:
            axes.axvline(limit, color=SECOND, linewidth=1.4, linestyle=(0, (3, 3)))
        axes.yaxis.set_major_locator(_ticker().MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(_ticker().FuncFormatter(_thousands))
    return chart


def roc_chart(curves: dict[str, dict[str, Any]]) -> Chart:
    """Draw true positives over false positives, one line for each label, and the diagonal of a guess."""
    chart = Chart()
    with _drawing(chart, "true positives over false positives") as axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(_ticker().MaxNLocator(5))
            axis.set_major_formatter(_ticker().FuncFormatter(lambda value, _: f"{value:g}"))
        axes.plot((0, 1), (0, 1), color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for number, curve in enumerate(curves.values()):
            axes.plot(curve["fpr"], curve["tpr"], color=(FIRST, SECOND, GOOD)[number % 3], linewidth=1.4)
    return chart


def _thousands(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}"


def _rate(value: float, _: int | None = None) -> str:
    """0.00002 → 2e-5."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def _ticker() -> Any:
    from matplotlib import ticker

    return ticker


def _thinned(points: list[tuple[float, float]]) -> tuple[int, list[tuple[float, float]]]:
    """Average neighbours until no more than POINTS_DRAWN are left; say how many went into one."""
    if not points:
        return 1, points
    each = -(-len(points) // POINTS_DRAWN)
    groups = [points[start : start + each] for start in range(0, len(points), each)]
    return each, [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


@contextmanager
def _drawing(chart: Chart, label: str) -> Iterator[Axes]:
    """Give axes to draw on, and put the finished SVG into `chart`."""
    import matplotlib
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": label,
        "font.size": 11,
        "axes.edgecolor": GRID,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "xtick.color": GRID,
        "ytick.color": GRID,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "ytick.major.size": 0,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.8,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")  # inches of 72 units
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(_ticker().MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(_ticker().FuncFormatter(_thousands))
        yield axes
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    chart.svg = _fit_into_page(drawn.getvalue(), label)


def _fit_into_page(svg: str, label: str) -> Markup:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.DOTALL)  # its rules would hold for the whole page
    used = set(re.findall(r"#([\w.]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)  # equal on every chart
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    attributes = f'class="chart" role="img" aria-label="{label}" {box.group() if box else ""}'
    svg = re.sub(r"<svg[^>]*>", f'<svg {attributes} xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return Markup(re.sub(r"\s*\n\s*", " ", svg))
