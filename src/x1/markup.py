"""Safe HTML and numbers for people, for the pages that x1 writes.

`Html` is markup, any other text is not, and `html` is the only way from one to the other: what a
run's folder holds, whoever wrote it, reaches a page escaped.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

from x1 import money

THIN_SPACE = "\u202f"
MINUS = "\u2212"
UNKNOWN = "–"
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LONGEST_TEXT = 4_000

Word = Callable[..., str]  # a sentence of the page, by key and values, in the page's language


class Html(str):
    """Markup: text that has been escaped, or that this module wrote."""


def html(template: str, **values: Any) -> Html:
    """`template` with its {placeholders} filled, every value that is not Html escaped."""
    return Html(
        template.format(**{k: v if isinstance(v, Html) else plain(v) for k, v in values.items()})
    )


def plain(value: Any) -> Html:
    """Any value as harmless text: escaped, encodable, control characters made visible."""
    text = _text(value).encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")
    return Html(escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)))


def _text(value: Any) -> str:
    try:
        return str(value)
    except RecursionError:
        return UNKNOWN


def join(parts: Iterable[Html]) -> Html:
    return Html("\n".join(parts))


def section(name: str, heading: str, *parts: Html) -> Html:
    return html(
        '<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n{body}\n</section>',
        name=name,
        heading=heading,
        body=join(part for part in parts if part),
    )


def paragraph(text: str, kind: str = "") -> Html:
    return html('<p class="{kind}">{text}</p>' if kind else "<p>{text}</p>", text=text, kind=kind)


def table(
    caption: str,
    head: Sequence[tuple[str, str]],
    rows: Iterable[Sequence[Any]],
    foot: Sequence[Any] = (),
) -> Html:
    """A table that scrolls by itself when it is too wide.

    `head` is (title, kind): "figure" aligns right, "text" wraps, "" does neither. The first cell
    of a row is its heading; `foot` is a row of sums.
    """

    def line(cells: Sequence[Any], row_head: bool) -> Html:
        marked = [
            html(
                '<th scope="row" class="{kind}">{cell}</th>'
                if row_head and column == 0
                else '<td class="{kind}">{cell}</td>',
                kind=kind,
                cell=cell,
            )
            for column, (cell, (_, kind)) in enumerate(zip(cells, head, strict=True))
        ]
        return html("<tr>{cells}</tr>", cells=Html("".join(marked)))

    titles = (html('<th scope="col" class="{k}">{t}</th>', k=kind, t=title) for title, kind in head)
    return html(
        '<div class="scroll" role="region" tabindex="0" aria-label="{caption}"><table>'
        "<caption><span>{caption}</span></caption>\n<thead><tr>{titles}</tr></thead>\n"
        "<tbody>\n{rows}\n</tbody>{foot}</table></div>",
        caption=caption,
        titles=Html("".join(titles)),
        rows=join(line(row, True) for row in rows),
        foot=html("\n<tfoot>{row}</tfoot>", row=line(foot, True)) if foot else Html(),
    )


def count(value: float) -> str:
    """ "2 048 000": thin spaces, so that no reader takes them for a decimal mark."""
    return f"{value:,.0f}".replace(",", THIN_SPACE) if math.isfinite(value) else UNKNOWN


def amount(value: float) -> str:
    """Three digits: "46.9M", "1.86×10⁹" (a billion differs between English and Spanish)."""
    if not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= 1e9:
        digits, exponent = f"{value:.2e}".split("e")
        return (
            f"{digits}×10{str(int(exponent)).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
        )
    return f"{value / 1e6:.3g}M" if abs(value) >= 999_500 else count(value)


def fixed(value: float, digits: int = 3) -> str:
    """So many decimals; a true minus sign; "–" for what is not a finite number."""
    return f"{value:.{digits}f}".replace("-", MINUS) if math.isfinite(value) else UNKNOWN


def signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", MINUS) if math.isfinite(value) else UNKNOWN


def percent(part: float, whole: float = 1.0) -> str:
    """ "9.8%"; "–" where there is nothing to take a share of."""
    return f"{fixed(100 * part / whole, 1)}%" if whole and math.isfinite(part / whole) else UNKNOWN


def dollars(value: float) -> str:
    return money.usd(value) if math.isfinite(value) else UNKNOWN


def hourly(usd: float) -> str:
    """An hourly price with its digits: "$1.39", "$0.013"; a cent an hour more is not rounding."""
    return dollars(usd) if usd >= 1 else f"${money.significant(usd):g}"


def duration(seconds: float) -> str:
    """ "2 h 03 min", "3 min 12 s", "4.2 s"."""
    if not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def flops_rate(value: float) -> str:
    """ "121 GFLOP/s", "312 TFLOP/s"."""
    if not math.isfinite(value):
        return UNKNOWN
    return f"{value / 1e12:.4g} TFLOP/s" if value >= 1e12 else f"{value / 1e9:.3g} GFLOP/s"


def short(value: Any, most: int = LONGEST_TEXT) -> str:
    text = _text(value)
    return text if len(text) <= most else f"{text[:most]} […]"
