"""Writes docs/scale.json and docs/figures/*.svg, what the page on scale shows, from the package,
and the chapters' figures, each from its measurements.

    make figures

The pages hold words; every number in their tables and figures comes from here. The tests fail if
what is committed is not what this writes.
"""

import io
import json
import re
from functools import partial
from html import escape
from pathlib import Path
from statistics import mean
from typing import Any

import figures_clipping
import figures_first_loss
import figures_ladder
import figures_met
import figures_mfu
import figures_predictions
import figures_watch
import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from x1 import communication as comm
from x1.chart import COLOURS, STYLE
from x1.flops import GIGA

DOCS = Path(__file__).parent
NO_ROOM, TOO_FEW = "✗", "—"
PARALLELS: tuple[comm.Parallel, ...] = ("ddp", "fsdp")
FIGURE_CLUSTER = "a100"
TOLERANCE = 0.025  # of a ratio of speeds: how far outside its bounds a published run may lie

TEXTS = {
    "en": {
        "gpus": "GPUs",
        "no room": "70B does not fit",
        "label": "Weak-scaling efficiency from 1 to 1,024 A100 under DDP and FSDP, for 50M, 1B and"
        " 70B parameters: a band from no overlap to full overlap",
    },
    "es": {
        "gpus": "GPU",
        "no room": "70B no cabe",
        "label": "Eficiencia del escalado débil de 1 a 1,024 A100 con DDP y FSDP, para 50M, 1B y"
        " 70B de parámetros: una banda que va de ningún solapamiento al solapamiento completo",
    },
}
CHAPTERS = {
    "clipping": figures_clipping.drawn,
    "first-loss": figures_first_loss.drawn,
    "met": figures_met.drawn,
    "mfu": figures_mfu.drawn,
    "predictions": figures_predictions.drawn,
    "ladder-text": partial(figures_ladder.drawn, "ladder-text"),
    "ladder-verbs": partial(figures_ladder.drawn, "ladder-verbs"),
}
SERIES = (("50M", "train"), ("1B", "held-out"), ("70B", "floor"))

# The colours of the run's report, light and dark.
PALETTE = """
svg { --ink: #1b1d21; --muted: #595f68; --rule: #dddcd6; --paper: #ffffff; --alarm: #b3231c;
      --train: #1d5fa6; --held-out: #a84d09; --floor: #23733a; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e8e7e3; --muted: #a6acb5; --rule: #353a42; --paper: #131519; --alarm: #ff8d83;
        --train: #82b5f2; --held-out: #f0a660; --floor: #7fca90; }
}
text { font-family: system-ui, sans-serif; }
"""


def percent(low: float, high: float) -> str:
    """Both bounds of an efficiency, in percent, as one number where they round to the same."""
    bounds = dict.fromkeys(f"{100 * share:.0f}" for share in sorted((low, high)))
    return "–".join(bounds) + "%"


def efficiency(expected: comm.Expectation | None) -> str:
    if expected is None:
        return TOO_FEW
    if expected.step is None:
        return NO_ROOM
    return percent(expected.step.serial, expected.step.overlapped)


def seconds(expected: comm.Expectation) -> str:
    return f"{expected.step.communication_s:.3g}" if expected.step else NO_ROOM


def expected_rows() -> list[dict[str, str]]:
    """One row for each model, number of GPUs and strategy."""
    rows = []
    for work, size in zip(comm.works(), (name for name, _ in SERIES), strict=True):
        for n in comm.GPU_COUNTS:
            for parallel in PARALLELS:
                row = {"model": size, "gpus": f"{n:,}", "parallel": parallel.upper()}
                for name, cluster in comm.CLUSTERS.items():
                    weak = comm.weak(cluster, work, n, parallel)
                    row[f"{name}_s"] = seconds(weak)
                    row[f"{name}_weak"] = efficiency(weak)
                    row[f"{name}_strong"] = efficiency(comm.strong(cluster, work, n, parallel))
                    row["sent_gb"] = f"{weak.volume_bytes / GIGA:.3g}"
                    batches = weak.batch_tokens / work.batch_tokens
                    row["batches"] = f"{batches:,.0f}" if batches >= 1 else f"{batches:.2g}"
                rows.append(row)
    return rows


def published_rows() -> list[dict[str, str]]:
    """One row for each published run, with the bounds predicted for it."""
    return [
        {
            "model": comparison.run.label,
            "cluster": comparison.run.cluster.gpu.split("-")[0].upper(),
            "from": str(comparison.base_n),
            "to": str(comparison.n),
            "predicted": f"{comparison.serial:.3f}–{comparison.overlapped:.3f}",
            "published": f"{comparison.published:.3f}",
            "miss": f"{comparison.miss:.3f}" if comparison.miss >= 0.0005 else "0",
        }
        for comparison in comm.comparisons()
    ]


def model_rows() -> list[dict[str, str]]:
    """What is assumed of each of the three models."""
    return [
        {
            "size": size,
            "model": work.label,
            "parameters": f"{work.n_parameters:,}",
            "layers": str(work.layers),
            "context": f"{work.context:,}",
            "gpu_sequences": str(work.gpu_sequences),
            "batch_tokens": f"{work.batch_tokens:,}",
        }
        for work, (size, _) in zip(comm.works(), SERIES, strict=True)
    ]


def summary_rows() -> list[dict[str, str]]:
    """One row: how well the bounds hold, and how well a guess without any of it would."""
    compared = comm.comparisons()
    near = [c for c in compared if c.miss <= TOLERANCE]
    return [
        {
            "all": str(len(compared)),
            "near": str(len(near)),
            "tolerance": f"{TOLERANCE:.3f}",
            "inside": str(sum(c.miss == 0 for c in near)),
            "below": str(sum(c.published < min(c.serial, c.overlapped) for c in near)),
            "above": str(sum(c.published > max(c.serial, c.overlapped) for c in near)),
            "serial": f"{mean(abs(c.published - c.serial) for c in near):.3f}",
            "overlapped": f"{mean(abs(c.published - c.overlapped) for c in near):.3f}",
            "nothing": f"{mean(abs(c.published - 1) for c in near):.3f}",
            "lowest": f"{min(c.published for c in near):.3f}",
        }
    ]


def finding_rows() -> list[dict[str, str]]:
    """One row: the figures the page begins with, for weak scaling on the figure's cluster."""
    cluster, most = comm.CLUSTERS[FIGURE_CLUSTER], comm.GPU_COUNTS[-1]
    small, _, large = comm.works()
    return [
        {
            "small_ddp": efficiency(comm.weak(cluster, small, most, "ddp")),
            "small_fsdp": efficiency(comm.weak(cluster, small, most, "fsdp")),
            "large_fsdp": efficiency(comm.weak(cluster, large, most, "fsdp")),
            "small_strong": efficiency(comm.strong(cluster, small, 64, "ddp")),
            "state_gb": f"{comm.STATE_BYTES * large.n_parameters / GIGA:,.0f}",
        }
    ]


def tables() -> dict[str, list[dict[str, str]]]:
    return {
        "findings": finding_rows(),
        "models": model_rows(),
        "expected": expected_rows(),
        "summary": summary_rows(),
        "published": published_rows(),
    }


def figure(language: str, width: int = 720, height: int = 330) -> str:
    """Weak-scaling efficiency over the number of GPUs, one panel a strategy, as an SVG file."""
    texts = TEXTS[language]
    cluster = comm.CLUSTERS[FIGURE_CLUSTER]
    counts = [2**k for k in range(11)]
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": language, "font.size": 12}):
        drawing = Figure(figsize=(width / 72, height / 72), dpi=72)
        for panel, parallel in enumerate(PARALLELS):
            axes = drawing.add_axes((0.07 + 0.49 * panel, 0.15, 0.4, 0.73))
            for place, (work, (size, colour)) in enumerate(zip(comm.works(), SERIES, strict=True)):
                found = [comm.weak(cluster, work, n, parallel) for n in counts]
                steps = [(e.n, e.step) for e in found if e.step]
                if steps:
                    x = [n for n, _ in steps]
                    low, high = (
                        [getattr(s, b) for _, s in steps] for b in ("serial", "overlapped")
                    )
                    ink = COLOURS[colour]
                    axes.fill_between(x, low, high, color=ink, alpha=0.18, linewidth=0)
                    axes.plot(x, low, color=ink, linewidth=2)
                    axes.plot(x, high, color=ink, linewidth=1, linestyle=(0, (4, 2)))
                name = size if steps else texts["no room"]
                axes.text(0.04, 0.22 - 0.08 * place, name, color=COLOURS[colour],
                          transform=axes.transAxes, fontweight="bold")  # fmt: skip
            axes.set_title(parallel.upper(), loc="left", color=COLOURS["ink"], fontsize=13)
            axes.set_xscale("log", base=2)
            axes.set_xticks([1, 8, 64, 1024], ["1", "8", "64", "1,024"])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_xlabel(texts["gpus"], color=COLOURS["muted"])
            axes.grid(axis="y", color=COLOURS["rule"], linewidth=0.8)
            axes.tick_params(colors=COLOURS["muted"], length=0)
            axes.set_axisbelow(True)
            axes.spines[:].set_visible(False)
        file = io.StringIO()
        drawing.savefig(file, format="svg", transparent=True)
    return as_file(file.getvalue(), texts["label"], width, height)


def as_file(svg: str, label: str, width: int, height: int) -> str:
    """Matplotlib's drawing as a small file of its own that follows the reader's light or dark."""
    body = svg[svg.index("<defs>") : svg.rindex("</svg>")]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"; font-family: '[^']*'|font: (bold )?(\d+)px '[^']*'", _font, body)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body).replace("xlink:href", "href")
    body = re.sub(r'( (?:d|x|y)="[^"]*)', lambda numbers: _one_decimal(numbers[0]), body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    for colour, code in COLOURS.items():
        body = body.replace(code, f"var(--{colour})")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">\n'
        f"<title>{escape(label)}</title>\n<style>{PALETTE}</style>\n{body}</svg>\n"
    )


def _font(found: re.Match[str]) -> str:
    weight = "; font-weight: bold" if found[1] else ""
    return f"font-size: {found[2]}px{weight}" if found[2] else ""


def _one_decimal(numbers: str) -> str:
    return re.sub(r"-?\d+\.\d{2,}", lambda number: f"{float(number[0]):.1f}", numbers)


def written() -> dict[Path, str]:
    """Every file this script writes, with its text."""
    data: dict[str, Any] = tables()
    files = {DOCS / "scale.json": json.dumps(data, ensure_ascii=False, indent=1) + "\n"}
    for language in TEXTS:
        files[DOCS / "figures" / f"scale-{language}.svg"] = figure(language)
        files[DOCS / "figures" / f"watch-{language}.svg"] = figures_watch.svg(language)
        for name, drawn in CHAPTERS.items():
            files[DOCS / "figures" / f"{name}-{language}.svg"] = as_file(*drawn(language))
    return files


if __name__ == "__main__":
    for path, text in written().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(DOCS.parent))
