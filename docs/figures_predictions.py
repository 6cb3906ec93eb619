"""The figure of the chapter on scaling laws, from the plan of X1 and docs/measured/ladder-*.json.

Left: what was written about X1's loss before the run. Right: what was written about each ladder's
held-back size, less what it came to: the law with its interval, and the two naive guesses.
"""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from x1 import config, flops, predict, scaling
from x1.chart import COLOURS, STYLE

MEASURED = Path(__file__).parent / "measured"
WIDTH, HEIGHT = 720, 400
BRIEF = ((3.0, 0.0), (3.35, 0.2))  # the two losses that X1's brief names
LADDERS = ("ladder-text", "ladder-mixed", "ladder-verbs")
BELOW = 0.17  # of the law's row: where two marks would hide each other
NAIVE = (("same_as_largest", "train"), ("log_log_line_in_N", "floor"))

TEXTS = {
    "en": {
        "left": "X1: written before the run",
        "right": "Ladders: written before, less what was met",
        "nats": "nats per token",
        "brief": "the brief, twice",
        "laws": "two published laws",
        "plan": "the plan",
        "ladder-text": "novels, one family",
        "ladder-mixed": "novels, mixed shapes",
        "ladder-verbs": "generated corpus",
        "met": "met",
        "law": "the law",
        "same_as_largest": "same as the largest",
        "log_log_line_in_N": "straight line",
        "label": "Left: the losses written down for X1 before its run: the two of its brief, those"
        " of two published laws, and the plan's with its interval. Right: for each ladder the law's"
        " prediction with its interval and two naive guesses, each less the loss that was met",
    },
    "es": {
        "left": "X1: escrito antes de la ejecución",
        "right": "Escaleras: lo escrito menos lo obtenido",
        "nats": "nats por token",
        "brief": "el encargo, dos veces",
        "laws": "dos leyes publicadas",
        "plan": "el plan",
        "ladder-text": "novelas, una sola familia",
        "ladder-mixed": "novelas, formas mezcladas",
        "ladder-verbs": "corpus generado",
        "met": "obtenido",
        "law": "la ley",
        "same_as_largest": "igual que el mayor",
        "log_log_line_in_N": "línea recta",
        "label": "Izquierda: las pérdidas escritas para X1 antes de su ejecución: las dos del"
        " encargo, las de dos leyes publicadas y la del plan con su intervalo. Derecha: para cada"
        " escalera, la predicción de la ley con su intervalo y dos conjeturas ingenuas, cada una"
        " menos la pérdida obtenida",
    },
}


def drawn(language: str) -> tuple[str, str, int, int]:
    """Matplotlib's SVG, its label, its width and height."""
    texts = TEXTS[language]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "predictions" + language, "font.size": 12}):
        drawing = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        before(drawing.add_axes((0.02, 0.13, 0.42, 0.77)), texts)
        met(drawing.add_axes((0.52, 0.13, 0.46, 0.77)), texts)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return file.getvalue(), texts["label"], WIDTH, HEIGHT


def before(axes: Axes, texts: dict[str, str]) -> None:
    """X1's loss as its brief, two laws and its plan write it down."""
    x1 = config.build("x1-50m")
    plan, _ = predict.predict_loss(x1, predict.shipped_measurements())
    N = flops.parameters(x1.model)
    for value, half in BRIEF:
        interval(axes, 2, value, value - half, value + half, "muted", "o")
    for law in scaling.PUBLISHED:
        axes.plot([law.predict(N, x1.tokens)], [1], "o", color=COLOURS["train"], markersize=7)
    assert plan.value is not None and plan.low is not None and plan.high is not None
    interval(axes, 0, plan.value, plan.low, plan.high, "held-out", "s")
    for row, (name, colour) in enumerate(
        (("plan", "held-out"), ("laws", "train"), ("brief", "muted"))
    ):
        note(axes, 2.93, row + 0.22, texts[name], colour)
    axes.set_xlim(2.9, 3.85)
    axes.set_ylim(-0.5, 2.6)
    axes.set_xticks([3.0, 3.2, 3.4, 3.6, 3.8])
    finish(axes, texts["left"], texts["nats"])


def met(axes: Axes, texts: dict[str, str]) -> None:
    """What was written about each ladder's held-back size, less the mean loss of its seeds."""
    axes.axvline(0, color=COLOURS["alarm"], linewidth=1.5)
    for row, name in enumerate(reversed(LADDERS)):
        result = json.loads((MEASURED / f"{name}.json").read_text("utf-8"))["result"]
        loss, bounds = result["measured_nats_per_token"], result["interval"]
        law = [result["predicted_nats_per_token"], bounds["low"], bounds["high"]]
        value, low, high = (nats - loss for nats in law)
        interval(axes, row, value, low, high, "held-out", "s")
        for guess, colour in NAIVE:
            off = result["naive"][guess]["miss_nats_per_token"]
            axes.plot([off], [row - BELOW], "D" if guess == "same_as_largest" else "^",
                      color=COLOURS[colour], markersize=7)  # fmt: skip
        note(axes, 0.02, row + 0.22, texts[name], "ink")
    note(axes, -0.01, -0.45, texts["met"], "alarm", right=True)
    marks = (("□", "law", "held-out"), ("◆", *NAIVE[0]), ("▲", *NAIVE[1]))
    for place, (mark, name, colour) in enumerate(marks):
        top = len(LADDERS) + 0.3 - 0.2 * (place + 1)
        note(axes, 0.62, top, f"{mark} {texts[name]}", colour, right=True)
    axes.set_xlim(-0.3, 0.63)
    axes.set_ylim(-0.5, len(LADDERS) + 0.3)
    finish(axes, texts["right"], texts["nats"])


def interval(
    axes: Axes, row: float, value: float, low: float, high: float, colour: str, mark: str
) -> None:
    bars: Any = [[value - low], [high - value]]
    axes.errorbar([value], [row], xerr=bars if high > low else None, fmt=mark,
                  color=COLOURS[colour], capsize=5, fillstyle="none", markersize=8)  # fmt: skip


def note(axes: Axes, x: float, y: float, text: str, colour: str, right: bool = False) -> None:
    axes.text(x, y, text, color=COLOURS[colour], fontweight="bold", ha="right" if right else "left")


def finish(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, loc="left", color=COLOURS["ink"], fontsize=13)
    axes.set_xlabel(x, color=COLOURS["muted"])
    axes.set_yticks([])
    axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.8)
    axes.tick_params(colors=COLOURS["muted"], length=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
