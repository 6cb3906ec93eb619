"""The figure of the chapter on loss spikes, from docs/measured/clipping.json.

One panel a fault: the training loss without clipping, with it, and without the fault.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from x1.chart import COLOURS, STYLE

MEASURED = Path(__file__).parent / "measured" / "clipping.json"
WIDTH, HEIGHT = 720, 430
COLUMNS = 4
TOP_NATS = 8.0
LINES = (("nothing", "alarm", "-"), ("clip 1", "train", "-"), ("sound", "floor", (0, (4, 2))))

TEXTS = {
    "en": {
        "gradient-x1e4": "A  gradient ×10,000",
        "nan-gradient": "B  NaN in the gradient",
        "lr-x100": "C  learning rate ×100",
        "attention-x64": "D  logits ×64",
        "constant-batch": "E  constant tokens",
        "no-warm-up": "F  no warm-up",
        "high-lr": "G  learning rate ×10",
        "nothing": "no clipping",
        "clip 1": "clipping at 1",
        "sound": "without the fault",
        "lost": "×  the loss is NaN",
        "axes": "nats per token over steps",
        "label": "Training loss of a small run broken in seven ways: without clipping, with"
        " clipping at 1, and without the fault",
    },
    "es": {
        "gradient-x1e4": "A  gradiente ×10,000",
        "nan-gradient": "B  NaN en el gradiente",
        "lr-x100": "C  tasa ×100",
        "attention-x64": "D  logits ×64",
        "constant-batch": "E  tokens constantes",
        "no-warm-up": "F  sin calentamiento",
        "high-lr": "G  tasa ×10",
        "nothing": "sin recorte",
        "clip 1": "con recorte a 1",
        "sound": "sin el fallo",
        "lost": "×  la pérdida es NaN",
        "axes": "nats por token, paso a paso",
        "label": "Pérdida de entrenamiento de una ejecución pequeña, rota de siete maneras: sin"
        " recorte, con recorte a 1 y sin el fallo",
    },
}


def drawn(language: str) -> tuple[str, str, int, int]:
    """Matplotlib's SVG, its label, its width and height."""
    texts = TEXTS[language]
    measured = json.loads(MEASURED.read_text("utf-8"))
    curves = {(row["fault"], row["remedy"]): row["loss_nats"] for row in measured["curves"]}
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "clipping" + language, "font.size": 11}):
        drawing = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        for place, fault in enumerate(measured["faults"]):
            axes = panel(drawing, place)
            shown = {
                "sound": curves["", "nothing"],
                "nothing": curves[fault, "nothing"],
                "clip 1": curves[fault, "clip 1"],
            }
            draw(axes, shown, texts[fault])
        legend(panel(drawing, len(measured["faults"])), texts)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return file.getvalue(), texts["label"], WIDTH, HEIGHT


def panel(drawing: Figure, place: int) -> Axes:
    row, column = divmod(place, COLUMNS)
    return drawing.add_axes((0.03 + 0.247 * column, 0.57 - 0.5 * row, 0.205, 0.36))


def draw(axes: Axes, curves: dict[str, list[Any]], title: str) -> None:
    """One fault; a cross stands where a curve ends because the loss is NaN."""
    for place, (name, colour, style) in enumerate(LINES):
        losses = [math.nan if loss is None else loss for loss in curves[name]]
        axes.plot(losses, color=COLOURS[colour], linestyle=style, linewidth=1.6)
        if math.isnan(losses[-1]):
            end = next(step for step, loss in enumerate(losses) if math.isnan(loss))
            axes.plot([end], [2.0 + place], "x", color=COLOURS[colour], markersize=8)
    axes.set_title(title, loc="left", color=COLOURS["ink"], fontsize=12)
    axes.set_xlim(0, len(curves["sound"]))
    axes.set_ylim(0, TOP_NATS)
    axes.set_xticks([0, 80, 160])
    axes.set_yticks([0, 2, 4, 6, 8])
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
    axes.tick_params(colors=COLOURS["muted"], length=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def legend(axes: Axes, texts: dict[str, str]) -> None:
    """What the lines are, in the place of an eighth panel."""
    for place, (name, colour, style) in enumerate(LINES):
        height = 0.85 - 0.2 * place
        axes.plot([0, 0.16], [height, height], color=COLOURS[colour], linestyle=style, linewidth=2)
        axes.text(0.22, height, texts[name], color=COLOURS[colour], va="center", fontweight="bold")
    for place, name in enumerate(("lost", "axes"), start=len(LINES)):
        axes.text(0, 0.85 - 0.2 * place, texts[name], color=COLOURS["muted"], va="center")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_axis_off()
