"""The figure of the chapter on the first loss, from docs/measured/first-loss.json.

Left: the untrained x1-50m, measured, over the formula. Right: the rehearsal with a leak.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from x1 import config
from x1.chart import COLOURS, STYLE

MEASURED = Path(__file__).parent / "measured" / "first-loss.json"
WIDTH, HEIGHT = 720, 330
SERIES = ((True, True, "train"), (False, True, "held-out"), (True, False, "ink"))

TEXTS = {
    "en": {
        "std": "initial std of the embedding",
        "step": "step",
        "left": "First loss of X1, nats per token",
        "right": "The rehearsal, nats per token",
        (True, True): "tied",
        (False, True): "untied",
        (True, False): "tied, blocks not silent",
        "leak": "sees the future",
        "floor": "floor",
        "label": "Left: the first loss of X1 over the initial standard deviation of its embedding,"
        " measured and by the formula, tied and untied. Right: the loss of the rehearsal over its"
        " steps with attention that sees the future: it falls through the floor",
    },
    "es": {
        "std": "desviación típica inicial del embedding",
        "step": "paso",
        "left": "Primera pérdida de X1, nats por token",
        "right": "El ensayo, nats por token",
        (True, True): "matriz compartida",
        (False, True): "sin compartir",
        (True, False): "compartida, bloques no callados",
        "leak": "ve el futuro",
        "floor": "piso",
        "label": "Izquierda: la primera pérdida de X1 según la desviación típica inicial de su"
        " embedding, medida y según la fórmula, con matriz compartida y sin compartir. Derecha: la"
        " pérdida del ensayo paso a paso con una atención que ve el futuro: atraviesa el piso",
    },
}


def formula(vocabulary: int, width: int, std: float, tied: bool) -> float:
    """ln(V e^(s²d/2) + e^(sd)), in nats; without the second term if untied."""
    own = math.exp(std * width) if tied else 0.0
    return math.log(vocabulary * math.exp(std**2 * width / 2) + own)


def drawn(language: str) -> tuple[str, str, int, int]:
    """Matplotlib's SVG, its label, its width and height."""
    texts: dict[Any, str] = TEXTS[language]
    measured = json.loads(MEASURED.read_text("utf-8"))
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": language, "font.size": 12}):
        drawing = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        starts(drawing.add_axes((0.055, 0.16, 0.4, 0.72)), measured, texts)
        leak(drawing.add_axes((0.555, 0.16, 0.4, 0.72)), measured, texts)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return file.getvalue(), texts["label"], WIDTH, HEIGHT


def starts(axes: Axes, measured: dict[str, Any], texts: dict[Any, str]) -> None:
    shape = config.build("x1-50m").model
    stds = np.geomspace(0.0022, 0.032, 60)
    for place, (tied, zero_outputs, colour) in enumerate(SERIES):
        ink = COLOURS[colour]
        if zero_outputs:
            line = [formula(shape.vocab_size, shape.d_model, std, tied) for std in stds]
            axes.plot(stds, line, color=ink, linewidth=1.5)
        found = [
            (row["embedding_std"], row["loss_nats"])
            for row in measured["starts"]
            if (row["tied"], row["zero_outputs"]) == (tied, zero_outputs)
        ]
        axes.plot(
            *zip(*found, strict=True), color=ink, linestyle="none",
            marker="o" if zero_outputs else "x", markersize=6 if zero_outputs else 9,
        )  # fmt: skip
        axes.text(0.05, 0.9 - 0.09 * place, texts[tied, zero_outputs], color=ink,
                  transform=axes.transAxes, fontweight="bold")  # fmt: skip
    axes.axhline(math.log(shape.vocab_size), color=COLOURS["muted"], linewidth=1, dashes=(4, 2))
    axes.text(0.0023, math.log(shape.vocab_size) - 0.55, "ln V", color=COLOURS["muted"])
    axes.set_xscale("log")
    axes.set_xticks([0.0025, 0.005, 0.01, 0.02], ["0.0025", "0.005", "0.01", "0.02"])
    axes.set_ylim(8, 17)
    finish(axes, texts["left"], texts["std"])


def leak(axes: Axes, measured: dict[str, Any], texts: dict[Any, str]) -> None:
    floor = measured["floor_nats"]
    axes.plot(measured["sees the future"]["losses_nats"], color=COLOURS["alarm"], linewidth=1.8)
    axes.text(0.3, 0.55, texts["leak"], color=COLOURS["alarm"],
              transform=axes.transAxes, fontweight="bold")  # fmt: skip
    axes.axhline(floor, color=COLOURS["floor"], linewidth=1.2, dashes=(4, 2))
    axes.text(0, floor + 0.12, texts["floor"], color=COLOURS["floor"], fontweight="bold")
    axes.set_ylim(0, 7.5)
    finish(axes, texts["right"], texts["step"])


def finish(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, loc="left", color=COLOURS["ink"], fontsize=13)
    axes.set_xlabel(x, color=COLOURS["muted"])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
    axes.tick_params(colors=COLOURS["muted"], length=0)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
