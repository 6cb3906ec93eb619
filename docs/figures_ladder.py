"""The figures of the page on the ladder, from docs/measured/ladder-*.json.

Loss over training tokens: the fitted sizes with the law through them, and above the held-back
size's tokens the interval written before it was trained, and what it came to.
"""

import io
import json
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

TEXTS = {
    "en": {
        "title": "Held-out loss, nats per token",
        "tokens": "training tokens",
        "predicted": "predicted before",
        "met": "met",
        "floor": "floor",
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
        "floor": "piso",
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
        counts = sorted({point["D"] for point in points})
        span = np.geomspace(counts[0], counts[-1], 60)
        sizes = sorted({point["N"] for point in points})
        for size, opacity in zip(sizes, np.linspace(FADED, 1, len(sizes)), strict=True):
            own = sorted((p["D"], p["loss_nats_per_token"]) for p in points if p["N"] == size)
            axes.plot(*zip(*own, strict=True), "o", color=COLOURS["train"], alpha=opacity)
            axes.plot(span, [law.predict(size, d) for d in span], color=COLOURS["train"],
                      alpha=opacity, linewidth=1.5)  # fmt: skip
            axes.annotate(short_number(size), (counts[-1], own[-1][1]), (14, -4),
                          textcoords="offset points", color=COLOURS["train"])  # fmt: skip
        predicted(axes, prediction, result, texts)
        axes.annotate(short_number(target["N"]), (target["D"], prediction["interval"]["low"]),
                      (14, -4), textcoords="offset points", color=COLOURS["held-out"],
                      fontweight="bold")  # fmt: skip
        floor = prediction["floor_nats_per_token"]
        if floor is not None:
            axes.axhline(floor, color=COLOURS["floor"], linewidth=1.2, dashes=(4, 2))
            axes.annotate(texts["floor"], (counts[0], floor), (0, 5), textcoords="offset points",
                          color=COLOURS["floor"], fontweight="bold")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(counts, [short_number(count) for count in counts])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(texts["title"], loc="left", color=COLOURS["ink"], fontsize=13)
        axes.set_xlabel(texts["tokens"], color=COLOURS["muted"])
        axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
        axes.tick_params(colors=COLOURS["muted"], length=0)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return file.getvalue(), texts["label"].format(name=texts[name]), WIDTH, HEIGHT


def predicted(
    axes: Any, prediction: dict[str, Any], result: dict[str, Any], texts: dict[str, str]
) -> None:
    """The interval written before, and a cross for each seed's loss."""
    target, interval = prediction["target"], prediction["interval"]
    value, ink = prediction["predicted_nats_per_token"], COLOURS["held-out"]
    bars = [[value - interval["low"]], [interval["high"] - value]]
    axes.errorbar([target["D"]], [value], yerr=bars, fmt="s", color=ink, capsize=5,
                  fillstyle="none", markersize=8)  # fmt: skip
    met = [point["loss_nats_per_token"] for point in result["held_back"]]
    axes.plot([target["D"]] * len(met), met, "x", color=COLOURS["alarm"], markersize=8,
              markeredgewidth=2)  # fmt: skip
    for place, (mark, colour) in enumerate((("predicted", "held-out"), ("met", "alarm"))):
        sign = "□ " if mark == "predicted" else "× "
        axes.text(0.02, 0.14 - 0.07 * place, sign + texts[mark], color=COLOURS[colour],
                  transform=axes.transAxes, fontweight="bold")  # fmt: skip
