"""Charts of a sweep: parallel coordinates, the metric over each parameter, and the curves of the trials."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from steps.reports.charts import (
    FAINT,
    FIRST,
    INK,
    MUTED,
    RAMP,
    SECOND,
    Chart,
    drawing,
    tickers,
)
from steps.reports.formats import name_lines
from steps.reports.scales import MISSING, Scale, measured_scale, parameter_scale
from steps.reports.sweep_facts import finite, is_measured

PIXELS = 69  # of the page per inch of a drawing, so that nine axes fit; a smaller one is hard to read
AXIS_INCHES = 1.5
VALUE_DRAWN = 14  # characters of a value beside an axis
MANY = 24  # lines; with more, they are thinner
CURVES_NAMED = 10  # with more curves, only that of the best trial has its number beside it
LEANING_GAP = 0.1  # between two leaning labels below a scatter chart, of its width
LABEL_GAP = 0.06  # between two numbers beside the curves, of the chart's height


class SweepCharts:
    """Draws one sweep; `trials` in the order of the table, `varied` names the parameters."""

    def __init__(self, sweep: dict[str, Any], trials: list[dict[str, Any]], varied: list[str], best: int | None):
        self.metric = str(sweep.get("metric") or "score")
        self.trials, self.varied, self.best = trials, varied, best
        scores: list[float] = [trial["score"] for trial in trials if is_measured(trial)]
        self.low, self.high = (min(scores), max(scores)) if scores else (0.0, 0.0)
        self.up = sweep.get("higher_is_better", True)
        self.score = measured_scale([score for trial in trials if (score := finite(trial.get("score"))) is not None])
        space = sweep.get("space") or {}
        self.scales = {
            name: parameter_scale(space.get(name), [(trial.get("parameters") or {}).get(name) for trial in trials])
            for name in varied
        }

    def parallel(self) -> Chart:
        """Draw a line for each trial over one axis for each parameter, and the metric as the last axis."""
        chart = Chart()
        scales = [*self.scales.values(), self.score]
        names = ["\n".join(name_lines(name)) for name in [*self.varied, self.metric.replace("_", " ")]]
        last = len(scales) - 1
        width = max(5.5, AXIS_INCHES * len(scales) + 0.6)
        chart.pixels = round(PIXELS * width)
        with drawing(chart, "one line per trial over its parameters and its score", 4.2, width) as axes:
            axes.set_axis_off()
            lowest = MISSING if any(label[0] == MISSING for scale in scales for label in scale.ticks[:1]) else 0
            axes.set_xlim(-0.62, last + 0.55)
            axes.set_ylim(lowest - 0.05, 1.1 + 0.07 * max(name.count("\n") + 1 for name in names))
            for place, (name, scale) in enumerate(zip(names, scales, strict=True)):
                axes.vlines(place, lowest, 1, color=MUTED, linewidth=1)
                axes.text(place, 1.08, name, ha="center", va="bottom", color=INK, parse_math=False, fontsize=10.5)
                at_end = place == last
                for position, label in scale.ticks:
                    told = label if len(label) <= VALUE_DRAWN else label[: VALUE_DRAWN - 1] + "…"
                    axes.text(
                        place + (0.06 if at_end else -0.06), position, told, ha="left" if at_end else "right",
                        va="center", color=MUTED, fontsize=10, parse_math=False, zorder=9,
                    )  # fmt: skip
            thin = 1.1 if len(self.trials) > MANY else 1.7
            for trial in reversed(self.trials):
                self._line(axes, trial, thin)
        return chart

    def _line(self, axes: Any, trial: dict[str, Any], width: float) -> None:
        values = trial.get("parameters") or {}
        points = [scale.position(values.get(name)) for name, scale in self.scales.items()]
        score = finite(trial.get("score"))
        if score is not None:
            points.append(self.score.position(score))
        style: dict[str, Any] = {"color": FAINT, "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 2}
        if is_measured(trial):
            style = {"color": self.colour(trial), "linewidth": width, "zorder": 3}
        elif trial.get("state") not in ("failed", "pruned"):
            return
        if trial.get("number") == self.best:
            style |= {"linewidth": 3, "zorder": 5, "marker": "o", "markersize": 6}
        axes.plot(range(len(points)), points, clip_on=False, **style)

    def scatters(self, curve_is_metric: bool) -> dict[str, Chart]:
        """Draw the metric over each parameter; `curve_is_metric` says that the curves show the same metric."""
        return {name: self._scatter(name, scale, curve_is_metric) for name, scale in self.scales.items()}

    def _scatter(self, name: str, scale: Scale, curve_is_metric: bool) -> Chart:
        chart = Chart()
        chart.log_scale = scale.log
        places = []
        crosses = []
        for trial in self.trials:
            value = scale.position((trial.get("parameters") or {}).get(name))
            if is_measured(trial):
                places.append((value, trial["score"], trial))
            elif trial.get("state") == "pruned" and curve_is_metric and (curve := points_of(trial)):
                crosses.append((value, curve[-1][1]))
        high = measured_scale([score for _, score, _ in places] + [score for _, score in crosses])
        with drawing(chart, f"{self.metric} over {name}", 2.9, 4.6) as axes:
            for value, score, trial in reversed(places):
                best = trial.get("number") == self.best
                axes.plot(
                    [value], [high.position(score)], marker="o", markersize=8 if best else 6, zorder=4 if best else 3,
                    color=SECOND if best else FIRST, alpha=1 if best else 0.65, markeredgewidth=0,
                )  # fmt: skip
            for value, score in crosses:
                axes.plot([value], [high.position(score)], marker="x", markersize=6, color=MUTED, markeredgewidth=1.4)
            lacks = scale.ticks[:1] and scale.ticks[0][0] == MISSING
            axes.set_xlim((MISSING if lacks else 0) - 0.07, 1.07)
            axes.set_ylim(-0.08, 1.08)
            _mark_ticks(axes.yaxis, high)
            shown, leans = _spaced(scale)
            lean: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if leans else {}
            axes.set_xticks([place for place, _ in shown], [label for _, label in shown], parse_math=False, **lean)
        return chart

    def curves(self, name: str) -> Chart:
        """Draw the curve of every trial whose curve shows the metric `name`."""
        chart = Chart()
        drawn = [(trial, points_of(trial)) for trial in self.trials if trial.get("curve_metric") == name]
        drawn = [(trial, points) for trial, points in drawn if points]
        scale = measured_scale([value for _, points in drawn for _, value in points])
        chart.log_scale = scale.log
        named = [pair for pair in drawn if len(drawn) <= CURVES_NAMED or pair[0].get("number") == self.best]
        right = max(points[-1][0] for _, points in drawn)
        left = min(points[0][0] for _, points in drawn)
        with drawing(chart, f"{name} of each trial over steps", 4.0) as axes:
            for trial, points in reversed(drawn):
                self._curve(axes, trial, [(step, scale.position(value)) for step, value in points])
            length = (right - left) or 1
            axes.set_xlim(left - 0.02 * length, right + (0.15 if named else 0.02) * length)
            axes.set_ylim(-0.05, 1.05)
            _mark_ticks(axes.yaxis, scale)
            places = tickers().MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(left, right)
            axes.set_xticks([place for place in places if left <= place <= right])
            ends = _spread([scale.position(points[-1][1]) for _, points in named])
            for (trial, points), height in zip(named, ends, strict=True):
                best = trial.get("number") == self.best
                start = (points[-1][0], scale.position(points[-1][1]))
                axes.plot(
                    [start[0], right + 0.03 * length], [start[1], height], color=MUTED, linewidth=0.6, alpha=0.6,
                    linestyle=(0, (1, 2)), zorder=1,
                )  # fmt: skip
                axes.text(
                    right + 0.035 * length, height, f"trial {trial.get('number')}", va="center", fontsize=10,
                    color=SECOND if best else MUTED, parse_math=False,
                )  # fmt: skip
        return chart

    def _curve(self, axes: Any, trial: dict[str, Any], points: list[tuple[float, float]]) -> None:
        best, state = trial.get("number") == self.best, trial.get("state")
        style: dict[str, Any] = {"color": FAINT, "linewidth": 1.2, "zorder": 2}
        if is_measured(trial):
            style = {"color": self.colour(trial), "linewidth": 1.4, "zorder": 3}
        if state == "failed":
            style["linestyle"] = (0, (4, 3))
        if best:
            style |= {"linewidth": 2.6, "zorder": 5}
        if len(points) == 1:
            style |= {"marker": "o", "markersize": 5}
        axes.plot(*zip(*points, strict=True), **style)
        if state == "pruned":
            axes.plot(*points[-1], marker="x", markersize=7, markeredgewidth=1.8, color=MUTED, zorder=6)

    def colour(self, trial: dict[str, Any]) -> str:
        """Return the colour of a finished trial: the best one's own, or a place on the ramp by score."""
        if trial.get("number") == self.best:
            return SECOND
        worst, best = self.score.position(self.low), self.score.position(self.high)
        share = (self.score.position(trial["score"]) - worst) / (best - worst) if best > worst else 1.0
        return RAMP[round((share if self.up else 1 - share) * (len(RAMP) - 1))] if best > worst else RAMP[-2]


def points_of(trial: dict[str, Any]) -> list[tuple[float, float]]:
    """Return the points of a trial's curve, without those that are not a finite number."""
    pairs = [(finite(step), finite(value)) for step, value in trial.get("curve") or ()]
    return [(step, value) for step, value in pairs if step is not None and value is not None]


def _mark_ticks(axis: Any, scale: Scale) -> None:
    axis.set_ticks([place for place, _ in scale.ticks], [label for _, label in scale.ticks], parse_math=False)


def _overlap(left: tuple[float, str], right: tuple[float, str]) -> bool:
    """Return whether two labels below a scatter chart would touch; a character is about 0.024 of its width."""
    return right[0] - left[0] < 0.012 * (len(left[1]) + len(right[1])) + 0.02


def _spaced(scale: Scale) -> tuple[list[tuple[float, str]], bool]:
    """Return the labels below a scatter chart and whether they lean, as texts do that would overlap."""
    leans = scale.categories and any(_overlap(*pair) for pair in pairwise(scale.ticks))
    kept = scale.ticks[:1]
    for tick in scale.ticks[1:]:
        if tick[0] - kept[-1][0] >= LEANING_GAP if leans else not _overlap(kept[-1], tick):
            kept.append(tick)
    return kept, leans


def _spread(heights: list[float]) -> list[float]:
    """Move heights apart until two neighbours have LABEL_GAP between them, keeping their order."""
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    moved: list[float] = []
    for place in order:
        moved.append(max(heights[place], moved[-1] + LABEL_GAP) if moved else heights[place])
    ceiling = 1.03
    for step in range(len(moved) - 1, -1, -1):
        moved[step] = min(moved[step], ceiling)
        ceiling = moved[step] - LABEL_GAP
    found = [0.0] * len(heights)
    for place, height in zip(order, moved, strict=True):
        found[place] = height
    return found
