"""Curves as inline SVG: text stays text, and every colour is a CSS variable of the page.

Matplotlib lays the figure out; what a browser page does not need (prologue, metadata, fixed
size, global styles, sub-pixel digits) is taken out again, so that one drawing of a long run
weighs tens of kilobytes and reads in light and dark.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Matplotlib wants a colour it knows; each of these stands for the page's variable of that name.
COLOURS = {
    name: f"#00000{digit}"
    for digit, name in enumerate(
        ("ink", "muted", "rule", "train", "held-out", "floor", "alarm", "paper"), start=1
    )
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # for measuring; the page's own fonts replace it
    "path.simplify": False,
}
FONT_PX = 12
CHARACTER_WIDTH = 0.58  # of the font size: an average that leaves a little air
ROW_PX = 16.0
ROWS = 4  # of event names above a chart, at most
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 46, 12, 10, 34
THINNED_BINS = 500
MEDIAN_BINS = 12, 90  # at least and at most; six steps in each if they suffice
NICE = [1, 2, 2.5, 5, 10]


@dataclass(frozen=True)
class Level:
    """A horizontal line with its name, which stands above it at a share `at` of its length."""

    value: float
    name: str
    colour: str
    at: float


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step; `grave` ones are drawn in the alarm colour."""

    step: float
    name: str
    grave: bool


@dataclass(frozen=True)
class Chart:
    """What one chart shows. Every pair is (steps, values), values NaN where there are none.

    `median` draws each step faintly and a running median over it; `off_scale` marks the steps
    that are too high for the scale, or not finite, at the top edge.
    """

    curve: tuple[Floats, Floats]
    earlier: tuple[tuple[Floats, Floats], ...] = ()
    points: tuple[Floats, Floats] | None = None
    levels: tuple[Level, ...] = ()
    marks: tuple[Mark, ...] = ()
    ticks: Sequence[float] = ()
    median: bool = False
    off_scale: bool = False
    log_x: bool = False
    log_y: bool = False
    from_zero: bool = False
    x_name: str = ""

    def after(self, first: float) -> "Chart":
        """The same chart from step `first` on."""

        def cut(series: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
            kept = series[0] >= first
            return series[0][kept], series[1][kept]

        return replace(
            self,
            curve=cut(self.curve),
            earlier=tuple(cut(series) for series in self.earlier),
            points=cut(self.points) if self.points else None,
            marks=tuple(mark for mark in self.marks if mark.step >= first),
            ticks=tuple(step for step in self.ticks if step >= first),
        )


@dataclass(frozen=True)
class Bins:
    """Equal stretches of an axis from `first` to `last` step, at which long curves are thinned."""

    first: float
    last: float
    log: bool
    count: int

    def of(self, x: Floats) -> NDArray[np.intp]:
        """The bin of each step."""
        left, right, at = ((np.log1p(v) if self.log else v) for v in (self.first, self.last, x))
        share = (at - left) / ((right - left) or 1.0)
        return np.clip(share * self.count, 0, self.count - 1).astype(np.intp)


def thin(x: Floats, y: Floats, bins: Bins) -> NDArray[np.intp]:
    """Indices that keep each bin's lowest and highest value: the envelope of a long curve.

    Non-finite values are left out. At most two a bin and the ends, in the order of `x`.
    """
    kept = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    column = bins.of(x[kept])
    if len(kept) <= 2 * len(np.unique(column)):
        return kept
    by_value = np.lexsort((y[kept], column))
    edges = np.flatnonzero(np.diff(column[by_value], prepend=-1, append=bins.count))
    lowest, highest = by_value[edges[:-1]], by_value[edges[1:] - 1]
    ends = np.array([0, len(kept) - 1])
    return kept[np.unique(np.concatenate([lowest, highest, ends]))]


def bin_medians(x: Floats, y: Floats, bins: Bins) -> tuple[Floats, Floats]:
    """Medians of x and of the finite y in each bin: a smooth line that one spike cannot bend."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    column = bins.of(x)
    groups = [column == i for i in np.unique(column)]
    return np.array([np.median(x[g]) for g in groups]), np.array([np.median(y[g]) for g in groups])


def draw(chart: Chart, name: str, label: str, width: int, height: int) -> str:
    """One `<svg>` element of `width` x `height` px units.

    `name` keeps this drawing's ids apart from those of other drawings on the page; `label` is
    what a screen reader says instead of the picture.
    """
    inner = width - LEFT_PX - RIGHT_PX
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72)
        axes = figure.add_axes((LEFT_PX / width, 0.1, inner / width, 0.8))
        _scales(axes, chart, narrow=width < 600)
        labels = _placed(axes, chart.marks, inner)
        rows = 1 + max((placed.row for placed in labels), default=-1)
        tall = height - BOTTOM_PX - TOP_PX - rows * ROW_PX
        axes.set_position((LEFT_PX / width, BOTTOM_PX / height, inner / width, tall / height))
        _curves(axes, chart)
        _levels(axes, chart)
        _marks(axes, labels, inner, tall)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True)
    return _as_page_element(file.getvalue(), label, width, height)


def _scales(axes: Axes, chart: Chart, narrow: bool) -> None:
    last = max([1.0, *(float(np.max(s[0])) for s in _all(chart) if len(s[0]))])
    if chart.log_x:
        axes.set_xscale("function", functions=(np.log1p, np.expm1))
        axes.set_xlim(-0.06, last * 1.04)
        decades = [10.0**k for k in range(int(np.log10(last)) + 1)]
        crowded = last < 2 * decades[-1] != last
        decades = [*decades[: -1 if crowded else None], last]
        axes.set_xticks([0.0, *dict.fromkeys(decades)])
    else:
        first = min((float(np.min(s[0])) for s in _all(chart) if len(s[0])), default=0.0)
        axes.set_xlim(first - 0.01 * (last - first), last + 0.01 * (last - first))
        axes.xaxis.set_major_locator(MaxNLocator(4 if narrow else 8, integer=True, steps=NICE))
    axes.xaxis.set_minor_locator(NullLocator())
    bottom, top = _y_range(chart)
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(
            LogLocator(10, subs=(1.0,) if top / bottom > 30 else (1, 2, 5))
        )
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4 if narrow else 6, steps=NICE))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(bottom, top)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    axes.tick_params(length=0, pad=6, labelsize=FONT_PX, labelcolor=COLOURS["muted"])
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=1)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(COLOURS["muted"])
    axes.set_xlabel(chart.x_name, loc="right", fontsize=FONT_PX, color=COLOURS["muted"], labelpad=1)


def _all(chart: Chart) -> list[tuple[Floats, Floats]]:
    return [chart.curve, *chart.earlier, *([chart.points] if chart.points else [])]


def _y_range(chart: Chart) -> tuple[float, float]:
    """Limits that the trend, its noise, the points and the levels set; one wild step does not."""
    x, y = chart.curve
    finite = np.isfinite(y) & ((y > 0) | (not chart.log_y))
    x, y = x[finite], y[finite]
    if not len(y):
        return (0.1, 10.0) if chart.log_y else (0.0, 1.0)
    if chart.log_y:
        return float(y.min()) / 1.3, float(y.max()) * 1.3
    trend_x, trend = bin_medians(x, y, _bins(chart, _median_bins(len(y))))
    # 4 standard deviations if the noise is normal: what lies beyond is worth a sign of its own.
    noise = 1.75 * float(np.percentile(np.abs(y - np.interp(x, trend_x, trend)), 98))
    points = chart.points[1] if chart.points else np.zeros(0)
    fixed = [*points[np.isfinite(points)], *(level.value for level in chart.levels)]
    low = min([float(trend.min()) - noise, *fixed])
    high = max([float(trend.max()) + noise, *fixed])
    if chart.from_zero:
        return 0.0, high * 1.15 or 1.0
    margin = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _median_bins(steps: int) -> int:
    least, most = MEDIAN_BINS
    return min(max(steps // 6, least), most)


def _bins(chart: Chart, count: int) -> Bins:
    steps = np.concatenate([series[0] for series in _all(chart)])
    first, last = (float(steps.min()), float(steps.max())) if len(steps) else (0.0, 1.0)
    return Bins(first, last, chart.log_x, count)


def _curves(axes: Axes, chart: Chart) -> None:
    for x, y in chart.earlier:
        kept = thin(x, y, _bins(chart, THINNED_BINS))
        axes.plot(x[kept], y[kept], color=COLOURS["muted"], linewidth=1, alpha=0.5)
    x, y = chart.curve
    kept = thin(x, y, _bins(chart, THINNED_BINS))
    alone = "." if len(kept) == 1 else None
    if chart.median:
        axes.plot(x[kept], y[kept], color=COLOURS["train"], linewidth=1, alpha=0.35)
        x_median, y_median = bin_medians(x, y, _bins(chart, _median_bins(len(y))))
        axes.plot(x_median, y_median, color=COLOURS["train"], linewidth=2, marker=alone)
    else:
        axes.plot(x[kept], y[kept], color=COLOURS["train"], linewidth=1.3, marker=alone)
    if chart.points:
        x, y = chart.points
        kept = thin(x, y, _bins(chart, 40))
        axes.plot(
            x[kept],
            y[kept],
            "o",
            color=COLOURS["held-out"],
            markersize=7,
            markeredgewidth=1.5,
            markeredgecolor=COLOURS["paper"],
            zorder=4,
        )
    _along_edge(axes, chart, np.asarray(chart.ticks, dtype=float), "|", "muted", 0.012)
    if chart.off_scale:
        _off_scale(axes, chart)


def _off_scale(axes: Axes, chart: Chart) -> None:
    """Steps too high for the scale (a triangle) or without a finite value (a cross), at the top."""
    _, top = axes.get_ylim()
    for x, y in (*chart.earlier, chart.curve):
        _along_edge(axes, chart, x[np.isfinite(y) & (y > top)], "^", "alarm", 0.985)
        _along_edge(axes, chart, x[~np.isfinite(y)], "x", "alarm", 0.985)


def _along_edge(
    axes: Axes, chart: Chart, steps: Floats, sign: str, colour: str, height: float
) -> None:
    """A sign at each step (or for each of the bins that hold some), at one height of the axes."""
    steps = steps[thin(steps, np.zeros(len(steps)), _bins(chart, 100))]
    axes.plot(
        steps,
        np.full(len(steps), height),
        sign,
        transform=axes.get_xaxis_transform(),
        color=COLOURS[colour],
        markersize=6,
        clip_on=False,
        zorder=3,
    )


def _levels(axes: Axes, chart: Chart) -> None:
    for level in chart.levels:
        colour = COLOURS[level.colour]
        axes.axhline(level.value, color=colour, linewidth=1.5, linestyle=(0, (6, 3)), zorder=2)
        axes.annotate(
            level.name,
            (level.at, level.value),
            xycoords=axes.get_yaxis_transform(),
            xytext=(2, 5),
            textcoords="offset points",
            fontsize=FONT_PX,
            color=colour,
        )


@dataclass(frozen=True)
class _Placed:
    """Marks that share a line at `at_px`, and where their names stand; row -1 is nowhere."""

    step: float
    grave: bool
    text: str
    at_px: float
    left_px: float
    right_px: float
    row: int


def _placed(axes: Axes, marks: tuple[Mark, ...], width: float) -> list[_Placed]:
    """Marks gathered where the eye cannot tell them apart (8 px), names in the first free row."""
    clusters: list[list[Mark]] = []
    for mark in sorted(marks, key=lambda mark: mark.step):
        if clusters and _pixel(axes, mark) - _pixel(axes, clusters[-1][0]) < 8:
            clusters[-1].append(mark)
        else:
            clusters.append([mark])
    placed: list[_Placed] = []
    for cluster in clusters:
        text = " → ".join(dict.fromkeys(mark.name for mark in cluster))
        grave = any(mark.grave for mark in cluster)
        at = _pixel(axes, cluster[0])
        length = len(text) * FONT_PX * CHARACTER_WIDTH
        left = max(at + 3 - length, -LEFT_PX)
        label = _Placed(cluster[0].step, grave, text, at, left, left + length, -1)
        rows = (replace(label, row=row) for row in range(ROWS))
        placed.append(next((r for r in rows if all(_apart(r, p) for p in placed)), label))
    return placed


def _apart(label: _Placed, other: _Placed) -> bool:
    """Whether neither text meets the other's text or the line up to it."""
    if label.row == other.row:
        return label.left_px > other.right_px + 8 or other.left_px > label.right_px + 8
    upper, lower = (label, other) if label.row > other.row else (other, label)
    return lower.row < 0 or not lower.left_px - 3 < upper.at_px < lower.right_px + 3


def _pixel(axes: Axes, mark: Mark) -> float:
    return float(axes.transData.transform((mark.step, 1.0))[0] - axes.bbox.x0)


def _marks(axes: Axes, labels: list[_Placed], width: float, height: float) -> None:
    """A vertical line for each cluster of marks, up to its names."""
    for placed in labels:
        colour = COLOURS["alarm" if placed.grave else "muted"]
        rise = max(placed.row, 0) * ROW_PX + 2
        axes.plot(
            [placed.step] * 2,
            [0, 1 + rise / height],
            transform=axes.get_xaxis_transform(),
            color=colour,
            linewidth=1,
            alpha=0.7,
            linestyle="-" if placed.grave else (0, (2, 2)),
            clip_on=False,
        )
        if placed.row >= 0:
            axes.annotate(
                placed.text,
                (placed.left_px / width, 1),
                xycoords="axes fraction",
                xytext=(0, rise + 2),
                textcoords="offset points",
                fontsize=FONT_PX,
                color=colour,
            )


def short_number(value: float) -> str:
    """A tick's number in few characters: 0.002, 1.5, 250, 20k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * (10 if letter == "k" else 1):
            return f"{value / size:.3g}{letter}"
    if value and abs(value) < 1e-4:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return f"{value:.4g}"


def _as_page_element(svg: str, label: str, width: int, height: int) -> str:
    """Matplotlib's file as an element of an HTML page."""
    body = svg[svg.index("<defs>") : svg.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"; font-family: '[^']*'", "", body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body)
    body = re.sub(r'<g id="[^"]*"(/?)>', r"<g\1>", body).replace("<g/>", "")
    body = body.replace("xlink:href", "href")
    body = re.sub(r'( (?:d|x|y)="[^"]*)', lambda text: _one_decimal(text[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    for colour, code in COLOURS.items():
        body = body.replace(code, f"var(--{colour})")
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
    return f"{head}{body}</svg>"


def _one_decimal(numbers: str) -> str:
    return re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", numbers)
