"""SVG charts that take their colours and font from the page.

matplotlib does not support CSS: it draws in placeholder colours, which are then replaced by the page's variables, so
the same chart works in light and dark mode. Equal facts give equal bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS_DRAWN = 400
BARS = 30
CLASSES_DRAWN = 20
COUNTS_WRITTEN = 12  # classes; with more classes, a cell is too small for its number
NAME_DRAWN = 18  # characters
WIDE = 50  # a loss that decreases by more than this factor is drawn on a log scale

# Placeholder colour → variable of style.css.
PAPER, MUTED, GRID, FIRST, SECOND, GOOD = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
INK, FAINT = "#070707", "#0f0f0f"
RAMP = ("#080808", "#090909", "#0a0a0a", "#0b0b0b", "#0c0c0c", "#0d0d0d", "#0e0e0e")  # from the worst to the best
VARIABLES = {
    PAPER: "--paper", MUTED: "--muted", GRID: "--grid", FIRST: "--first", SECOND: "--second", GOOD: "--good",
    INK: "--ink", FAINT: "--part-2", **{colour: f"--ramp-{place}" for place, colour in enumerate(RAMP)},
}  # fmt: skip


class Chart:
    """A chart and the facts for its caption."""

    def __init__(self) -> None:
        self.svg = Markup("")
        self.log_scale = False
        self.averaged = 1
        """Number of logged points averaged in one drawn point."""
        self.limited = False
        """Whether the length limit is drawn."""
        self.folded = 0
        """Number of classes with the fewest mistakes, which share one row and one column."""
        self.highlighted = ""
        """Class with the lowest AUC, whose curve has the second colour."""
        self.held_out = False
        """Whether there is a curve of the validation."""
        self.marked = False
        """Whether the best step is marked."""
        self.pixels = 0
        """Width on the page, of a chart that is wider than the others."""


def loss_chart(points: list[dict[str, Any]], evaluations: list[dict[str, Any]], best: dict[str, Any] | None) -> Chart:
    """Draw training and validation loss over steps, with the best step marked."""
    chart = Chart()
    logged = [(point["step"], point["loss"]) for point in points if point.get("loss") is not None]
    held_out = [(point["step"], point["loss"]) for point in evaluations if point.get("loss") is not None]
    losses = [loss for _, loss in logged + held_out]
    chart.log_scale = bool(losses) and min(losses) > 0 and max(losses) / min(losses) > WIDE
    chart.averaged, logged = _thinned(logged)
    with drawing(chart, "loss over steps") as axes:
        if chart.log_scale:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(tickers().NullLocator())
        axes.yaxis.set_major_formatter(tickers().FuncFormatter(lambda value, _: f"{value:g}"))
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
    """Return the validation loss of the best step, which may have been selected by another metric."""
    return next((point["loss"] for point in evaluations if point["step"] == best["step"]), best["value"])


def rate_chart(points: list[dict[str, Any]]) -> Chart:
    """Draw the learning rate over steps."""
    chart = Chart()
    chart.averaged, rates = _thinned([(point["step"], point["learning_rate"]) for point in points])
    with drawing(chart, "learning rate over steps") as axes:
        axes.yaxis.set_major_formatter(tickers().FuncFormatter(rate))
        axes.plot(*zip(*rates, strict=True), color=FIRST, linewidth=1.6)
        axes.set_ylim(bottom=0)
    return chart


def margin_chart(points: list[dict[str, Any]], evaluations: list[dict[str, Any]]) -> Chart:
    """Draw the reward margin between better and worse answers over steps."""
    chart = Chart()
    name = "rewards/margins"
    logged = [(point["step"], point[name]) for point in points if point.get(name) is not None]
    held_out = [(point["step"], point[name]) for point in evaluations if point.get(name) is not None]
    chart.averaged, logged = _thinned(logged)
    with drawing(chart, "reward margin over steps") as axes:
        axes.yaxis.set_major_formatter(tickers().FuncFormatter(lambda value, _: f"{value:g}"))
        axes.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        if logged:
            axes.plot(*zip(*logged, strict=True), color=FIRST, linewidth=1.6)
        if held_out:
            axes.plot(*zip(*held_out, strict=True), color=SECOND, linewidth=1.6, marker="o", markersize=4.5)
    return chart


def curve_chart(
    label: str,
    points: list[dict[str, Any]],
    evaluations: list[dict[str, Any]],
    name: str,
    *,
    spread: str = "",
    best: int | None = None,
    bottom: float | None = None,
    share: bool = False,
) -> Chart:
    """Draw one logged figure over steps, in training and in evaluations.

    `spread` names the figure that is drawn as a band around it, `best` is a step to mark; a `share` is from 0 to 1.
    """
    chart = Chart()
    logged, held_out = _logged(points, name), _logged(evaluations, name)
    around = _logged([point for point in points if point.get(name) is not None], spread) if spread else []
    banded = len(around) == len(logged) and bool(logged)
    chart.averaged, logged = _thinned(logged)
    chart.held_out, chart.marked = bool(held_out), best is not None
    with drawing(chart, label) as axes:
        axes.yaxis.set_major_formatter(
            tickers().FuncFormatter(lambda value, _: f"{value:.0%}" if share else f"{value:g}")
        )
        if banded:
            steps, means = zip(*logged, strict=True)
            widths = [width for _, width in _thinned(around)[1]]
            low = [mean - width for mean, width in zip(means, widths, strict=True)]
            high = [mean + width for mean, width in zip(means, widths, strict=True)]
            axes.fill_between(steps, low, high, color=FIRST, alpha=0.15, linewidth=0)
        if logged:
            mark = "o" if len(logged) == 1 else ""
            axes.plot(*zip(*logged, strict=True), color=FIRST, linewidth=1.6, marker=mark, markersize=4.5)
        if held_out:
            axes.plot(*zip(*held_out, strict=True), color=SECOND, linewidth=1.6, marker="o", markersize=4.5)
        if best is not None:
            axes.axvline(best, color=GOOD, linewidth=1, linestyle=(0, (3, 3)))
        if share:
            axes.set_ylim(-0.02, 1.02)
        elif bottom is not None:
            axes.set_ylim(bottom=bottom)
    return chart


def _logged(points: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(point["step"], point[name]) for point in points if isinstance(point.get(name), int | float)]


def reward_histogram(values: dict[str, list[float]]) -> Chart:
    """Draw a histogram of rewards for one or two kinds of rows, with a line at 0."""
    chart = Chart()
    everything = [value for kind in values.values() for value in kind] + [0.0]
    low, high = min(everything), max(everything)
    width = (high - low) / BARS or 1.0
    edges = [low + width * place for place in range(BARS + 1)]
    with drawing(chart, "rows by reward") as axes:
        for kind, colour in zip(values.values(), (FIRST, SECOND), strict=False):
            axes.hist(kind, edges, color=colour, edgecolor=PAPER, linewidth=1, alpha=0.7 if len(values) > 1 else 1)
        axes.axvline(0, color=MUTED, linewidth=1.4, linestyle=(0, (3, 3)))
        axes.xaxis.set_major_locator(tickers().MaxNLocator(6))
        axes.xaxis.set_major_formatter(tickers().FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(tickers().MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(tickers().FuncFormatter(_thousands))
    return chart


def length_chart(histogram: dict[str, list], limit: int | None, of: str = "rows") -> Chart:
    """Draw a histogram of lengths in tokens, with the length limit."""
    chart = Chart()
    edges, counts = histogram["edges"], histogram["counts"]
    with drawing(chart, f"{of} by length in tokens") as axes:
        widths = [right - left for left, right in pairwise(edges)]
        axes.bar(edges[:-1], counts, widths, align="edge", color=FIRST, edgecolor=PAPER, linewidth=1)
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        # A limit far beyond all rows would compress the histogram; the table beside the chart shows it.
        chart.limited = limit is not None and limit <= 1.5 * edges[-1]
        if chart.limited and limit is not None:
            axes.axvline(limit, color=SECOND, linewidth=1.4, linestyle=(0, (3, 3)))
        axes.yaxis.set_major_locator(tickers().MaxNLocator(5, integer=True))
        axes.yaxis.set_major_formatter(tickers().FuncFormatter(_thousands))
    return chart


def confusion_matrix(names: list[str], counts: list[list[int]], of: str = "") -> Chart:
    """Draw true classes as rows and predicted classes as columns; a cell's opacity is its share of its row.

    With many classes, those with the most mistakes are drawn and the others combined into one. `of` distinguishes two
    charts on one page.
    """
    from matplotlib.patches import Rectangle

    chart = Chart()
    chart.folded, names, counts = _folded(names, counts)
    classes = len(names)
    with drawing(chart, f"true classes by predicted class {of}".strip(), height=1.4 + 0.3 * max(classes, 4)) as axes:
        for row, cells in enumerate(counts):
            for column, count in enumerate(cells):
                if not count:
                    continue
                share = count / sum(cells)
                colour = FIRST if row == column else SECOND
                # The opacity is limited, so that the number is readable in light and dark mode.
                axes.add_patch(
                    Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.06 + 0.44 * share, lw=0)
                )
                if classes <= COUNTS_WRITTEN:
                    axes.text(column, row, _thousands(count), ha="center", va="center", color=INK, fontsize=10)
        edges = [place - 0.5 for place in range(1, classes)]
        axes.hlines(edges, -0.5, classes - 0.5, color=PAPER, linewidth=2)
        axes.vlines(edges, -0.5, classes - 0.5, color=PAPER, linewidth=2)
        axes.grid(False)
        axes.set_xlim(-0.5, classes - 0.5)
        axes.set_ylim(classes - 0.5, -0.5)
        shown = [short(name) for name in names]
        lean: dict[str, Any] = (
            {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if classes * max(map(len, shown)) > 60 else {}
        )
        # A class may be named "$5$", which must not be read as a formula.
        axes.set_xticks(range(classes), shown, parse_math=False, **lean)
        axes.set_yticks(range(classes), shown, parse_math=False)
        axes.tick_params(length=0)
        axes.set_xlabel("predicted", color=MUTED)
        axes.set_ylabel("true", color=MUTED)
    return chart


def roc_curve(points: dict[str, dict[str, Any]], of: str = "") -> Chart:
    """Draw the true positive rate over the false positive rate for each class, and the line of guessing.

    `points` maps a class to fpr, tpr and auc. With two classes only the second is drawn, as the first mirrors it. `of`
    distinguishes two charts on one page.
    """
    chart = Chart()
    drawn = list(points) if len(points) != 2 else list(points)[1:]
    if len(drawn) > 1:
        chart.highlighted = min(drawn, key=lambda name: points[name]["auc"])
    with drawing(chart, f"true positive rate over false positive rate {of}".strip()) as axes:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for name in sorted(drawn, key=lambda name: name == chart.highlighted):
            worst = name == chart.highlighted
            axes.plot(
                points[name]["fpr"], points[name]["tpr"], color=SECOND if worst else FIRST,
                linewidth=1.6 if worst or len(drawn) == 1 else 1.1, alpha=1 if worst or len(drawn) == 1 else 0.6,
            )  # fmt: skip
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(tickers().MultipleLocator(0.25))
            axis.set_major_formatter(tickers().FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.01)
        axes.set_xlabel("false positive rate", color=MUTED)
        axes.set_ylabel("true positive rate", color=MUTED)
    return chart


def short(name: str) -> str:
    name = " ".join(name.split())
    return name if len(name) <= NAME_DRAWN else name[: NAME_DRAWN - 1] + "…"


def _folded(names: list[str], counts: list[list[int]]) -> tuple[int, list[str], list[list[int]]]:
    """Keep the classes with the most mistakes, in their order, and combine the others into one."""
    if len(names) <= CLASSES_DRAWN:
        return 0, names, counts
    places = range(len(names))
    wrong = [sum(counts[place]) + sum(row[place] for row in counts) - 2 * counts[place][place] for place in places]
    kept = sorted(sorted(places, key=lambda place: -wrong[place])[: CLASSES_DRAWN - 1])
    groups = [[place] for place in kept] + [sorted(set(places) - set(kept))]
    folded = len(groups[-1])
    sums = [[sum(counts[row][column] for row in rows for column in columns) for columns in groups] for rows in groups]
    return folded, [*(names[place] for place in kept), f"{folded} others"], sums


def _thousands(value: float, _: int | None = None) -> str:
    return f"{value:,.0f}"


def rate(value: float, _: int | None = None) -> str:
    """0.00002 → 2e-5."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}" if value else "0"


def tickers() -> Any:
    from matplotlib import ticker

    return ticker


def _thinned(points: list[tuple[float, float]]) -> tuple[int, list[tuple[float, float]]]:
    """Average adjacent points so that at most POINTS_DRAWN remain; also return the number of points per average."""
    if not points:
        return 1, points
    each = -(-len(points) // POINTS_DRAWN)
    groups = [points[start : start + each] for start in range(0, len(points), each)]
    return each, [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


@contextmanager
def drawing(chart: Chart, label: str, height: float = 3.6, width: float = 7.2) -> Iterator[Axes]:
    """Yield axes to draw on, `width` by `height` inches, then store the SVG in `chart`."""
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
        figure = Figure(figsize=(width, height), layout="constrained")  # inches of 72 units
        axes = figure.add_subplot()
        axes.xaxis.set_major_locator(tickers().MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(tickers().FuncFormatter(_thousands))
        yield axes
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            # matplotlib's font is only used for measuring; the page's font has the missing characters.
            warnings.filterwarnings("ignore", "Glyph .* missing")
            figure.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    chart.svg = _fit_into_page(drawn.getvalue(), label)


def _fit_into_page(svg: str, label: str) -> Markup:
    svg = re.sub(r"<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    # Texts in the chart may be names from the data and must not be changed.
    written = re.findall(r">([^<]*)</text>", svg)
    svg = re.sub(r">[^<]*</text>", "></text>", svg)
    svg = re.sub(r"\s*<style.*?</style>", "", svg, flags=re.DOTALL)  # its rules would apply to the whole page
    used = set(re.findall(r"#([\w.]+)", svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)  # the same in all charts
    svg = re.sub(r" font-family: [^;]*;", "", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    attributes = f'class="chart" role="img" aria-label="{escape(label)}" {box.group() if box else ""}'
    svg = re.sub(r"<svg[^>]*>", f'<svg {attributes} xmlns:xlink="http://www.w3.org/1999/xlink">', svg, count=1)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r"\s*\n\s*", " ", svg)
    texts = iter(written)
    return Markup(re.sub("></text>", lambda _: f">{next(texts)}</text>", svg))
