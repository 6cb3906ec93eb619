"""A ladder in one drawing: loss against tokens for each size, the law, and the held-back rung."""

import io
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from x1.chart import short_number
from x1.scaling import ScalingLaw
from x1.text import say

STYLE: dict[Any, Any] = {"svg.hashsalt": "ladder", "font.size": 10, "text.parse_math": False}
PREDICTED = "#c2410c"


def draw(points: list[dict[str, Any]], prediction: dict[str, Any], result: dict[str, Any]) -> bytes:
    """An SVG file: points and law in the colour of their size, prediction with its interval."""
    constants = {name: prediction["law"][name] for name in ("E", "A", "B", "alpha", "beta")}
    law, target = ScalingLaw(**constants), prediction["target"]
    sizes = sorted({point["N"] for point in points})
    with rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        counts = [point["D"] for point in points] + [target["D"]]
        span = np.geomspace(min(counts), max(counts), 100)
        for size, shade in zip(sizes, np.linspace(0.85, 0.15, len(sizes)), strict=True):
            colour = colormaps["viridis"](shade)
            own = [point for point in points if point["N"] == size and point["seed"] == 0]
            axes.plot(
                [p["D"] for p in own], [p["loss_nats_per_token"] for p in own], "o", color=colour
            )
            axes.plot(span, [law.predict(size, d) for d in span], color=colour,
                      label=say("ladder.plot_size", size=short_number(size)))  # fmt: skip
        value, interval = prediction["predicted_nats_per_token"], prediction["interval"]
        bars = [[value - interval["low"]], [interval["high"] - value]]
        size_said = short_number(target["N"])
        said = say("ladder.plot_predicted", size=size_said)
        axes.errorbar([target["D"]], [value], yerr=bars, fmt="s", color=PREDICTED, capsize=4,
                      fillstyle="none", label=said)  # fmt: skip
        met = [point["loss_nats_per_token"] for point in result["held_back"]]
        axes.plot([target["D"]] * len(met), met, "x", color=PREDICTED, markersize=8,
                  label=say("ladder.plot_met", size=size_said))  # fmt: skip
        if prediction["floor_nats_per_token"] is not None:
            axes.axhline(prediction["floor_nats_per_token"], color="#555", linestyle="--",
                         label=say("ladder.plot_floor"))  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(sorted(set(counts)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(say("ladder.plot_tokens"))
        axes.set_ylabel(say("ladder.plot_loss"))
        axes.legend(frameon=False)
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
