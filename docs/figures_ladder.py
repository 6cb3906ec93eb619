"""The figures of the page on the ladder, from docs/measured/ladder-*.json.

Loss over training tokens: the fitted sizes with the law through them, and above the held-back
size's tokens the interval written before it was trained, and what it came to. Where the floor is
known, what is drawn is the loss above it, on a logarithmic axis.
"""

import io
import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from x1.chart import COLOURS, STYLE, short_number
from x1.scaling import ScalingLaw

MEASURED = Path(__file__).parent / "measured"
WIDTH, HEIGHT = 720, 380
FADED = 0.35  # the smallest size's opacity; the largest has 1
LABEL_HEIGHT = 14  # points between the names of two curves, at least

TEXTS = {
    "en": {
        "title": "Held-out loss, nats per token",
        "tokens": "training tokens",
        "predicted": "predicted before",
        "met": "met",
        "above": "Held-out loss above the floor, nats per token",
        "ladder-text": "Ladder on real text",
        "ladder-verbs": "Ladder on the generated corpus",
        "label": "{name}: the loss of each fitted size over its training tokens with the fitted"
        " law, and the held-back size's predicted interval with the losses it met",
    },
    "es": {
        "title": "Pérdida en el texto reservado, nats por token",
        "tokens": "tokens de entrenamiento",
        "predicted": "predicho antes",
        "met": "obtenido",
        "above": "Pérdida por encima del piso en el texto reservado, nats por token",
        "ladder-text": "Escalera sobre texto real",
        "ladder-verbs": "Escalera sobre el corpus generado",
        "label": "{name}: la pérdida de cada tamaño ajustado según sus tokens de entrenamiento, con"
        " la ley ajustada, y el intervalo predicho para el tamaño reservado con las pérdidas que"
        " obtuvo",
    },
}


def drawn(name: str, language: str) -> tuple[str, str, int, int]:
    """Matplotlib's SVG of one ladder, its label, its width and height."""
    texts = TEXTS[language]
    record = json.loads((MEASURED / f"{name}.json").read_text("utf-8"))
    prediction, result = record["prediction"], record["result"]
    points = [point for point in record["points"]["points"] if point["seed"] == 0]
    law = ScalingLaw(**{key: prediction["law"][key] for key in ("E", "A", "B", "alpha", "beta")})
    target = prediction["target"]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name + language, "font.size": 12}):
        drawing = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        axes = drawing.add_axes((0.065, 0.13, 0.79, 0.78))
        floor = prediction["floor_nats_per_token"] or 0.0
        counts = sorted({point["D"] for point in points})
        span = np.geomspace(counts[0], counts[-1], 60)
        sizes = sorted({point["N"] for point in points})
        names = {target["N"]: prediction["interval"]["low"] - floor}
        for size, opacity in zip(sizes, np.linspace(FADED, 1, len(sizes)), strict=True):
            own = sorted((p["D"], p["loss_nats_per_token"]) for p in points if p["N"] == size)
            own = [(tokens, loss - floor) for tokens, loss in own]
            axes.plot(*zip(*own, strict=True), "o", color=COLOURS["train"], alpha=opacity)
            axes.plot(span, [law.predict(size, d) - floor for d in span], color=COLOURS["train"],
                      alpha=opacity, linewidth=1.5)  # fmt: skip
            names[size] = own[-1][1]
        predicted(axes, prediction, result, floor, texts)
        if floor:
            axes.set_yscale("log")
            ticks = (0.07, 0.1, 0.2, 0.3, 0.4)
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.yaxis.set_minor_locator(NullLocator())
        name_curves(axes, names, counts[-1], target["N"])
        axes.set_xscale("log")
        axes.set_xticks(counts, [short_number(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(
            texts["above" if floor else "title"], loc="left", color=COLOURS["ink"], fontsize=13
        )
        axes.set_xlabel(texts["tokens"], color=COLOURS["muted"])
        axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
        axes.tick_params(colors=COLOURS["muted"], length=0)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return file.getvalue(), texts["label"].format(name=texts[name]), WIDTH, HEIGHT


def predicted(
    axes: Any,
    prediction: dict[str, Any],
    result: dict[str, Any],
    floor: float,
    texts: dict[str, str],
) -> None:
    """The interval written before, and a cross for each seed's loss."""
    target, interval = prediction["target"], prediction["interval"]
    value, ink = prediction["predicted_nats_per_token"], COLOURS["held-out"]
    bars = [[value - interval["low"]], [interval["high"] - value]]
    axes.errorbar([target["D"]], [value - floor], yerr=bars, fmt="s", color=ink, capsize=5,
                  fillstyle="none", markersize=8)  # fmt: skip
    met = [point["loss_nats_per_token"] - floor for point in result["held_back"]]
    axes.plot([target["D"]] * len(met), met, "x", color=COLOURS["alarm"], markersize=8,
              markeredgewidth=2)  # fmt: skip
    height = 0.6 if floor else 0.14  # of the key, where no curve runs
    for place, (mark, colour) in enumerate((("predicted", "held-out"), ("met", "alarm"))):
        sign = "□ " if mark == "predicted" else "× "
        axes.text(0.02, height - 0.07 * place, sign + texts[mark], color=COLOURS[colour],
                  transform=axes.transAxes, fontweight="bold")  # fmt: skip


def name_curves(axes: Any, names: dict[int, float], tokens: int, held_back: int) -> None:
    """Each size's N right of its last point, moved up where two would lie on one another."""
    height = axes.figure.get_figheight() * 72 * axes.get_position().height
    low, high = (axes.transScale.transform((1, y))[1] for y in axes.get_ylim())
    lowest = -math.inf
    for size, loss in sorted(names.items(), key=lambda name: name[1]):
        at = height * (axes.transScale.transform((1, loss))[1] - low) / (high - low)
        lowest = max(at, lowest + LABEL_HEIGHT)
        bold = size == held_back
        axes.annotate(short_number(size), (tokens, loss), (14, lowest - at - 4),
                      textcoords="offset points", fontweight="bold" if bold else "normal",
                      color=COLOURS["held-out" if bold else "train"])  # fmt: skip
