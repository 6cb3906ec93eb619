"""The figure of the chapter on compute and cost, from docs/measured/mfu-cpu.json.

Left: tokens/s of five shapes over their FLOPs per token, with what the largest one's MFU would
give. Right: the MFU of each.
"""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, PercentFormatter

from x1.chart import COLOURS, STYLE

MEASURED = Path(__file__).parent / "measured" / "mfu-cpu.json"
WIDTH, HEIGHT = 720, 330
SERIES = (("fp32", "train"), ("bf16", "held-out"))

TEXTS = {
    "en": {
        "left": "tokens/s on one core",
        "right": "MFU",
        "cost": "MFLOP per token",
        "width": "width d",
        "dots": "measured",
        "line": "at d 512's MFU",
        "label": "Left: tokens per second of five shapes over their FLOPs per token, measured, and"
        " what they would be at the MFU of the largest. Right: the MFU of each shape, which falls"
        " as the model gets narrower, and is lower in bf16 than in fp32",
    },
    "es": {
        "left": "tokens/s en un núcleo",
        "right": "MFU",
        "cost": "MFLOP por token",
        "width": "ancho d",
        "dots": "medido",
        "line": "con la MFU de d 512",
        "label": "Izquierda: tokens por segundo de cinco formas según sus FLOPs por token, medidos,"
        " y los que darían con la MFU de la mayor. Derecha: la MFU de cada forma, que baja cuanto"
        " más estrecho es el modelo y es menor en bf16 que en fp32",
    },
}


def drawn(language: str) -> tuple[str, str, int, int]:
    """Matplotlib's SVG, its label, its width and height."""
    texts = TEXTS[language]
    rows = json.loads(MEASURED.read_text("utf-8"))["rows"]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": language, "font.size": 12}):
        drawing = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        speeds(drawing.add_axes((0.08, 0.16, 0.4, 0.72)), rows, texts)
        shares(drawing.add_axes((0.58, 0.16, 0.39, 0.72)), rows, texts)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return file.getvalue(), texts["label"], WIDTH, HEIGHT


def of(rows: list[dict[str, Any]], dtype: str) -> list[dict[str, Any]]:
    """One dtype's rows, the narrowest first."""
    return [row for row in rows if row["dtype"] == dtype]


def width(row: dict[str, Any]) -> int:
    return int(row["shape"].removeprefix("d"))


def speeds(axes: Axes, rows: list[dict[str, Any]], texts: dict[str, str]) -> None:
    for dtype, colour in SERIES:
        shapes, ink = of(rows, dtype), COLOURS[colour]
        costs = [row["flops_per_token"] / 1e6 for row in shapes]
        rates = [row["tokens_per_s"] for row in shapes]
        work = costs[-1] * rates[-1]  # MFLOP/s of the largest shape
        axes.plot(costs, [work / cost for cost in costs], color=ink, linewidth=1.3, dashes=(4, 2))
        axes.plot(costs, rates, color=ink, linestyle="none", marker="o", markersize=6)
    ink = COLOURS["muted"]
    axes.text(0.97, 0.9, f"●  {texts['dots']}", color=ink, transform=axes.transAxes, ha="right")
    axes.text(0.97, 0.81, f"- -  {texts['line']}", color=ink, transform=axes.transAxes, ha="right")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([20, 50, 100, 200, 300], ["20", "50", "100", "200", "300"])
    axes.set_yticks([200, 500, 1000, 2000, 5000], ["200", "500", "1,000", "2,000", "5,000"])
    finish(axes, texts["left"], texts["cost"])


def shares(axes: Axes, rows: list[dict[str, Any]], texts: dict[str, str]) -> None:
    for dtype, colour in SERIES:
        shapes, ink = of(rows, dtype), COLOURS[colour]
        widths, shown = [width(row) for row in shapes], [row["mfu"] for row in shapes]
        axes.plot(widths, shown, color=ink, linewidth=1.8, marker="o", markersize=6)
        axes.text(widths[2], shown[2] + 0.035, dtype, color=ink, fontweight="bold", ha="right")
    axes.set_xticks([128, 256, 384, 512], ["128", "256", "384", "512"])
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    finish(axes, texts["right"], texts["width"])


def finish(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, loc="left", color=COLOURS["ink"], fontsize=13)
    axes.set_xlabel(x, color=COLOURS["muted"])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
    axes.tick_params(colors=COLOURS["muted"], length=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
