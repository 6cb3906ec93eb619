"""Formulas, `$…$` and `$$…$$`, as SVG with their MathML beside it: no script, no font, no network.

The outlines are those of STIX Two Math, so a formula looks the same everywhere, also where no font
for mathematics is installed; a screen reader is given the MathML. What counts as a formula is what
`x1 author check` takes for one: a dollar before a digit closes none, so prices stay prices. A
formula that cannot be rendered is a warning that names its page, which `mkdocs build --strict`
turns into a failure; latex2mathml alone lets much of it pass.
"""

import html
import logging
import re
import unicodedata
import warnings
from typing import Any
from xml.etree import ElementTree

import ziafont
from markdown import Extension, Markdown
from markdown.inlinepatterns import InlineProcessor

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # for how it opens its own font
    import ziamath
    from ziamath.tex import declareoperator, tex2mml

DISPLAYED = r"\$\$(.+?)\$\$"
INLINE = r"(?<![\\$\w])\$(?=[^\s$])([^$\n]+?)(?<=[^\s\\])\$(?!\d)"
BEFORE_ESCAPES = 185  # after code in backticks (190), before Markdown's backslashes (180)
MATHML = "http://www.w3.org/1998/Math/MathML"
MI, MO, MROW, MSPACE, MATH = (
    f"{{{MATHML}}}{tag}" for tag in ("mi", "mo", "mrow", "mspace", "math")
)
SCRIPTED = ("msub", "msup", "msubsup", "munder")
OPERATORS = (r"\arg", r"\argmin", r"\argmax", r"\softmax")  # unknown to latex2mathml
SPACES = re.compile(r" (?=[A-Z-])|(?<=[A-Z]) | $")  # that a path can do without
EM_PX = 20.0  # what the drawings are computed at; on the page they are as large as its text

ziafont.config.svg2 = False  # no shared shapes, whose ids would clash between formulas
ziafont.config.precision = 1
ziamath.config.math.color = "currentColor"
for operator in OPERATORS:
    declareoperator(operator)

log = logging.getLogger("mkdocs.hooks.maths")  # under "mkdocs", so that --strict counts it
ElementTree.register_namespace("", MATHML)


class FormulaError(ValueError):
    """A formula that cannot be rendered, with the reason."""


def rendered(formula: str, block: bool = False) -> str:
    """The formula as HTML: drawn, and as MathML for whoever does not see.

    Raises FormulaError for unbalanced braces, an unknown command, or a misplaced sign.
    """
    if (level := balance(formula)) != 0:
        raise FormulaError("a brace is missing" if level > 0 else "a brace too many")
    try:
        root = ElementTree.fromstring(tex2mml(formula.strip(), inline=not block))
    except Exception as error:  # each fault of latex2mathml is a class of its own, none a base
        raise FormulaError(f"{type(error).__name__} {error}".strip()) from error
    for element in root.iter():
        text = element.text or ""
        if text.startswith("\\") or text in ("&", "#"):
            raise FormulaError(f"{text} is not known here")
        if element.tag == MI and len(text) == 1 and unicodedata.category(text) == "Sm":
            element.tag = MO  # ± is an operator and has an operator's spaces
    spaced_functions(root)
    for_readers = ElementTree.tostring(root, encoding="unicode")
    drawing = ziamath.Math(root, size=EM_PX, margin=0).svgxml()
    left, top, width, height = (float(side) for side in drawing.get("viewBox", "").split())
    drawing.set("viewBox", f"{left:.1f} {top:.1f} {width:.1f} {height:.1f}")
    below = (top + height) / EM_PX
    drawing.set("style", f"width:{width / EM_PX:.2f}em;height:{height / EM_PX:.2f}em;"
                f"vertical-align:{-below:.2f}em")  # fmt: skip
    drawing.set("aria-hidden", "true")
    for name in ("width", "height"):
        del drawing.attrib[name]
    for shape in drawing.iter("path"):
        del shape.attrib["fill"]  # the style sheet's
        shape.set("d", SPACES.sub("", shape.get("d", "")))
    picture = ElementTree.tostring(drawing, encoding="unicode")
    kind = "formula block" if block else "formula"
    return f'<span class="{kind}"><span class="read">{for_readers}</span>{picture}</span>'


def balance(formula: str) -> int:
    """How many braces are open at the end; -1 as soon as one closes that was not open."""
    level = 0
    for brace in re.findall(r"\\.|[{}]", formula, re.DOTALL):
        level += (brace == "{") - (brace == "}")
        if level < 0:
            return -1
    return level


def spaced_functions(element: ElementTree.Element) -> None:
    """A thin space after a function's name (ln V), which latex2mathml leaves out."""
    children = list(element)
    for place in reversed(range(len(children) - 1 if element.tag in (MROW, MATH) else 0)):
        name, following = children[place], children[place + 1]
        if name.tag.endswith(SCRIPTED):  # log₂ is a name too
            name = name[0]
        word = name.text or ""
        if name.tag == MI and len(word) > 1 and word.isalpha() and following.tag != MO:
            element.insert(place + 1, ElementTree.Element(MSPACE, {"width": "0.167em"}))
    for child in children:
        spaced_functions(child)


class Formula(InlineProcessor):
    """One kind of formula in a paragraph; the page it is on is the extension's."""

    def __init__(self, pattern: str, md: Markdown, block: bool, maths: "Maths") -> None:
        super().__init__(pattern, md)
        self.block, self.maths = block, maths

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:
        try:
            shown = rendered(m[1], self.block)
        except FormulaError as error:
            log.warning("%s: the formula %s cannot be rendered: %s", self.maths.page, m[0], error)
            shown = f"<code>{html.escape(m[0])}</code>"
        return self.md.htmlStash.store(shown), m.start(0), m.end(0)


class Maths(Extension):
    """The Markdown extension; `page` is what a warning names."""

    page = ""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(Formula(DISPLAYED, md, True, self), "formulas", BEFORE_ESCAPES)
        md.inlinePatterns.register(Formula(INLINE, md, False, self), "formula", BEFORE_ESCAPES - 1)


MATHS = Maths()


def on_config(config: Any) -> Any:
    """Once for each language, with one configuration for all of them."""
    if MATHS not in config.markdown_extensions:
        config.markdown_extensions.append(MATHS)
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    MATHS.page = page.file.src_uri
    return markdown
