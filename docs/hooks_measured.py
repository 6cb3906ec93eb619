"""What the page of measured results shows of each file: plots (docs/plots.toml), then its tables.

A bar is an SVG inside a table's row, so that it is crisp at any width, its words stay text of the
page's size, and its number is read out. Colours are the page's own variables, light and dark.
"""

import html
import json
import logging
import math
import re
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ALT = re.compile(r"<title>(.*?)</title>", re.DOTALL)
TWIN_FIELDS = {"check": "comprobacion", "damaged": "danado"}  # English to Spanish, beside FIELD_es
LONGEST_CELL, MOST_ROWS = 60, 80
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 300, 44, 64, 12, 34
WORDS = {
    "rows": {"en": "Table: {name} ({count})", "es": "Tabla: {name} ({count})"},
    "single": {"en": "Table: single numbers", "es": "Tabla: números sueltos"},
}

log = logging.getLogger("mkdocs.hooks.measured")  # under "mkdocs", so that --strict counts it

Row = dict[str, Any]


@cache
def plots() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads((DOCS / "plots.toml").read_text("utf-8"))


def shown(path: Path, language: str) -> str:
    """The plots and tables of one result, as HTML blocks."""
    record = json.loads(path.read_text("utf-8"))
    parts = []
    for plot in plots().get(path.stem, []):
        try:
            parts.append(drawn(plot, record, language))
        except (KeyError, TypeError, ValueError, OSError) as error:
            log.warning("docs/plots.toml, %s: %r cannot be drawn: %r", path.stem, plot, error)
    return "\n\n".join([*parts, *tables(record, language)])


def drawn(plot: dict[str, Any], record: Row, language: str) -> str:
    """One plot. Raises KeyError or TypeError where the file has not what the plot asks for."""
    if "figure" in plot:
        path = DOCS / "figures" / f"{plot['figure']}-{language}.svg"
        alt = ALT.search(path.read_text("utf-8"))
        return f"![{html.unescape(alt[1]) if alt else ''}](figures/{path.name})"
    title = plot["title"][language]
    if "curve" in plot:
        points = rows_of(at(record, plot["curve"]))
        return curve(points, plot, title)
    label = plot.get(f"label_{language}", plot["label"])
    rows = [
        (label.format(**row), number(at(row, plot["value"])),
         number(at(row, plot["mark"])) if "mark" in plot else None)
        for row in rows_of(at(record, plot["bars"]))
    ]  # fmt: skip
    return bars(title, rows)


def at(record: Any, path: str) -> Any:
    """What lies at `a.b` of nested tables."""
    for name in path.split("."):
        record = record[name]
    return record


def rows_of(found: Any) -> list[Row]:
    """A list of tables as it is; a table of numbers as rows of key and value."""
    if isinstance(found, dict):
        return [{"key": key, "value": value} for key, value in found.items()]
    return list(found)


def number(value: Any) -> float:
    return float(str(value).replace(",", "").rstrip("%"))


def bars(title: str, rows: list[tuple[str, float, float | None]]) -> str:
    """A table of labels, bars and numbers; the longest bar is the largest number."""
    most = max((max(value, mark or 0) for _, value, mark in rows), default=0) or 1
    lines = []
    for label, value, mark in rows:
        line = (
            f'<line x1="{100 * mark / most:.2f}%" x2="{100 * mark / most:.2f}%" y1="0" y2="100%"/>'
            if mark is not None
            else ""
        )
        number_ = f"{short(value)} | {short(mark)}" if mark is not None else short(value)
        lines.append(
            f'<tr><th scope="row">{html.escape(label)}</th><td class="bar">'
            f'<svg aria-hidden="true"><rect width="{100 * max(value, 0) / most:.2f}%" '
            f'height="100%"/>{line}'
            f"</svg></td><td>{number_}</td></tr>"
        )
    body = "\n".join(lines)
    return (
        f'<table class="bars"><caption>{html.escape(title)}</caption>\n<tbody>\n{body}\n'
        "</tbody></table>"
    )


def short(value: float) -> str:
    """Four digits, thousands with commas."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def curve(points: list[Row], plot: dict[str, Any], title: str) -> str:
    """Lines over a logarithmic x, each named at its end."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        own = lines.setdefault(str(point[plot["line"]]), [])
        own.append((number(point[plot["x"]]), number(point[plot["y"]])))
    xs = sorted({x for own in lines.values() for x, _ in own})
    ys = [y for own in lines.values() for _, y in own]
    low, high = min(ys), max(ys)

    def across(x: float) -> float:
        share = math.log(x / xs[0]) / (math.log(xs[-1] / xs[0]) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (high - y) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y in ticks(low, high):
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{down(y):.1f}" '
            f'y2="{down(y):.1f}"/><text x="{LEFT - 8}" y="{down(y) + 4:.1f}" '
            f'text-anchor="end">{y:g}</text>'
        )
    for x in xs:
        parts.append(
            f'<text x="{across(x):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{millions(x)}</text>'
        )
    for name, own in lines.items():
        means = [(x, mean(y for at_x, y in own if at_x == x)) for x in sorted({x for x, _ in own})]
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in means)
        parts.append(f'<polyline points="{path}"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3"/>' for x, y in own]
        x, y = means[-1]
        parts.append(
            f'<text class="name" x="{across(x) + 10:.1f}" y="{down(y) + 4:.1f}">'
            f"{html.escape(name)}</text>"
        )
    body = "\n".join(parts)
    return (
        f'<figure class="curve"><figcaption>{html.escape(title)}</figcaption>\n'
        f'<div class="scrolls"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html.escape(title)}">\n{body}\n</svg></div></figure>'
    )


def mean(values: Iterable[float]) -> float:
    there = list(values)
    return sum(there) / len(there)


def millions(value: float) -> str:
    return f"{value / 1e6:.3g}M" if value >= 1e6 else f"{value:g}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two bounds: four to eight of them."""
    step = 10 ** math.floor(math.log10((high - low) or 1))
    for part in (1, 0.5, 0.2):
        if (high - low) / (step * part) >= 4:
            step *= part
            break
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def tables(record: Row, language: str) -> list[str]:
    """A file's single numbers and every list of flat rows, folded, without the other language."""
    found = []
    single = {
        name: value
        for name, value in record.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    for name, value in [*record.items(), *([("single numbers", [single])] if single else [])]:
        if isinstance(value, dict) and value and all(isinstance(v, dict) for v in value.values()):
            value = [{"name": key, **row} for key, row in value.items()]
        if not (isinstance(value, list) and value and all(isinstance(row, dict) for row in value)):
            continue
        rows = [flat(row, language) for row in value[:MOST_ROWS]]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if not columns:
            continue
        head = "".join(f'<th scope="col"><code>{html.escape(key)}</code></th>' for key in columns)
        body = "\n".join(
            "<tr>" + "".join(f"<td>{cell(row.get(key))}</td>" for key in columns) + "</tr>"
            for row in rows
        )
        said = WORDS["rows"][language].format(name=name, count=len(value))
        if value == [single]:
            said = WORDS["single"][language]
        attribute = ' lang="en"' if language != "en" else ""
        found.append(
            f'<details class="rows" data-search-exclude><summary>{html.escape(said)}</summary>\n'
            f'<div class="scrolls" tabindex="0" role="region" aria-label="{html.escape(said)}">'
            f"<table{attribute}><thead><tr>{head}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody></table></div></details>"
        )
    return found


def flat(row: Row, language: str) -> Row:
    """A row's plain fields, in one language where it has words in both."""
    plain = {}
    for key, value in row.items():
        if isinstance(value, (dict, list)):
            continue
        twin = TWIN_FIELDS.get(key, f"{key}_es")
        is_twin = key.removesuffix("_es") in row and key.endswith("_es")
        if is_twin or key in TWIN_FIELDS.values():
            continue
        plain[key] = row[twin] if language == "es" and twin in row else value
    return plain


def cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return html.escape(text if len(text) <= LONGEST_CELL else f"{text[:LONGEST_CELL]}…")
