"""The figure of the chapter on the X1 run: what was predicted, held against what was met.

From docs/measured/ladder-*.json, rehearsal.json, throughput-cpu.json, rehearsal-run.json and
docs/watch.json. Every miss is in half-widths of the interval on the side it fell on: 0 is the
value predicted, -1 and 1 are the ends.
"""

import io
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from x1 import predict
from x1.chart import COLOURS, STYLE

DOCS = Path(__file__).parent
MEASURED = DOCS / "measured"
WIDTH, HEIGHT = 720, 400
LADDERS = ("ladder-text", "ladder-mixed", "ladder-verbs")

TEXTS = {
    "en": {
        "title": "Misses, in half-widths of the interval",
        "ladder-text": "loss, ladder on novels",
        "ladder-mixed": "loss, ladder of mixed shapes",
        "ladder-verbs": "loss, ladder on the generated corpus",
        "seed": "loss, rehearsal, seed {seed} from the others",
        "measured": "speed, rehearsal, from a measurement",
        "typed": "speed, rehearsal, as typed",
        "dollars": "dollars, the same rehearsal",
        "inside": "inside",
        "label": "Nine predictions and what was met, in half-widths of each interval. The six"
        " losses lie inside; a measured speed misses by a hair, a typed one by nine half-widths,"
        " and its dollars by twelve",
    },
    "es": {
        "title": "Fallos, en medios anchos del intervalo",
        "ladder-text": "pérdida, escalera con novelas",
        "ladder-mixed": "pérdida, escalera de formas mezcladas",
        "ladder-verbs": "pérdida, escalera con el corpus generado",
        "seed": "pérdida, ensayo, semilla {seed} según las otras",
        "measured": "velocidad, ensayo, según una medición",
        "typed": "velocidad, ensayo, la tecleada",
        "dollars": "dólares, el mismo ensayo",
        "inside": "dentro",
        "label": "Nueve predicciones y lo que se obtuvo, en medios anchos de cada intervalo. Las"
        " seis pérdidas quedan dentro; una velocidad medida se sale por un pelo, una tecleada por"
        " nueve medios anchos, y sus dólares por doce",
    },
}


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def miss(value: float, low: float, high: float, met: float) -> float:
    """In half-widths of the side it fell on; positive where more was met than predicted."""
    off = met - value
    return off / (high - value if off > 0 else value - low)


def misses(texts: dict[str, str]) -> list[tuple[str, str, float]]:
    """Each prediction: its name, the colour of its kind, and its miss."""
    rows = []
    for name in LADDERS:
        result = read(MEASURED / f"{name}.json")["result"]
        low, high = (result["interval"][end] for end in ("low", "high"))
        value, met = result["predicted_nats_per_token"], result["measured_nats_per_token"]
        rows.append((texts[name], "train", miss(value, low, high, met)))
    runs = read(MEASURED / "rehearsal.json")["runs"]
    for run in runs:
        others = [each["loss_nats_per_token"] for each in runs if each is not run]
        found = miss(*predict.prediction_interval(others), run["loss_nats_per_token"])
        rows.append((texts["seed"].format(seed=run["seed"]), "train", found))
    rate = read(MEASURED / "throughput-cpu.json")["tokens_per_s"]["rehearsal"]["fp32"]
    met = read(MEASURED / "rehearsal-run.json")["median_tokens_per_s"]
    low, high = (rate * (1 + sign * predict.TYPED_SPREAD) for sign in (-1, 1))
    rows.append((texts["measured"], "held-out", miss(rate, low, high, met)))
    seen = read(DOCS / "watch.json")["seen"]
    for key, kind, met in (
        ("typed", "tokens_per_s", seen["speed"]["tokens_per_s"]),
        ("dollars", "dollars", seen["money"]["projected_usd"]),
    ):
        said = seen["predicted"][kind]
        rows.append((texts[key], "held-out", miss(said["value"], said["low"], said["high"], met)))
    return rows


def drawn(language: str) -> tuple[str, str, int, int]:
    """Matplotlib's SVG, its label, its width and height."""
    texts = TEXTS[language]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "met" + language, "font.size": 12}):
        drawing = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72)
        axes = drawing.add_axes((0.5, 0.09, 0.47, 0.82))
        rows = misses(texts)
        axes.axvspan(-1, 1, color=COLOURS["floor"], alpha=0.18, linewidth=0)
        axes.axvline(0, color=COLOURS["muted"], linewidth=1)
        for row, (name, colour, found) in enumerate(reversed(rows)):
            axes.plot([found], [row], "x", color=COLOURS[colour], markersize=9, markeredgewidth=2.5)
            axes.text(-13.2, row, name, color=COLOURS["ink"], ha="right", va="center",
                      clip_on=False)  # fmt: skip
            beside = found if found < -1.5 else max(found, 1)  # clear of the band
            axes.text(beside + 0.7, row, f"{found:+.2f}".replace("-", "−"),
                      color=COLOURS[colour], va="center", fontweight="bold")  # fmt: skip
        axes.text(0, len(rows) - 0.45, texts["inside"], color=COLOURS["floor"], ha="center",
                  fontweight="bold")  # fmt: skip
        axes.set_xlim(-12.5, 15.5)
        axes.set_ylim(-0.6, len(rows))
        axes.set_xticks([-10, -5, -1, 1, 5, 10], ["−10", "−5", "−1", "1", "5", "10"])
        axes.set_yticks([])
        drawing.text(0.02, 0.95, texts["title"], color=COLOURS["ink"], fontsize=13)
        axes.grid(axis="x", color=COLOURS["rule"], linewidth=0.8)
        axes.tick_params(colors=COLOURS["muted"], length=0)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return file.getvalue(), texts["label"], WIDTH, HEIGHT
