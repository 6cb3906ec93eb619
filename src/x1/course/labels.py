"""The glossary: the words of a plot or a printed result, in the notebook's language.

A code cell serves both languages, so it holds no sentence, and every word it shows is a term of
the glossary: `label("loss")`. `check_words` refuses the rest.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

from x1.config import nearest
from x1.course.cells import MARKER
from x1.text import UserError, language

GLOSSARY = "glossary.toml"
WORD = re.compile(r"[^\W\d_]{2,}")
SENTENCE = re.compile(r"(?<![\w.])[^\W\d_]{2,}[,;:]?(?:\s+[^\W\d_])?\s+[^\W\d_]{2,}(?!\w)")
FORMULA = re.compile(r"\$[^$]*\$")
DIRECTIVE = re.compile(r"#\s*(exercise:|solution$|end solution$|type:|noqa|fmt:)")

SHOWS_TEXT = {
    "print", "set_xlabel", "set_ylabel", "set_title", "xlabel", "ylabel", "title", "suptitle",
    "text", "annotate", "legend", "Text", "Markdown",
}  # fmt: skip
TEXT_FIELDS = {"label", "labels", "title", "xlabel", "ylabel", "suptitle"}


@cache
def glossary() -> dict[str, dict[str, str]]:
    """Every term in both languages: {"loss": {"en": "loss", "es": "pérdida"}}."""
    return tomllib.loads((files("x1.text") / GLOSSARY).read_text("utf-8"))


def label(term: str, lang: str | None = None) -> str:
    """The term in the notebook's language. Raises UserError naming the nearest one.

    A term that only one lab needs is in its lab.toml, under `labels`.
    """
    speak_like_the_copy(Path.cwd())
    terms = glossary()
    if term not in terms:
        terms = {**terms, **labels_of_the_lab()}
    if term not in terms:
        raise UserError("author.unknown_label", term=term, nearest=nearest(term, list(terms)))
    return terms[term][lang or language()]


@cache
def speak_like_the_copy(here: Path) -> None:
    """From the first plot of a kernel on, the language of the work copy in this folder, if any."""
    from x1.course import work

    with suppress(UserError, OSError):
        work.copy_here(here)


def labels_of_the_lab() -> dict[str, dict[str, str]]:
    """The labels of the lab whose notebook runs here: a work copy is named like its lab."""
    from x1.course import source

    here = Path.cwd()
    try:
        folder = source.labs_folder(here) / here.name
    except UserError:
        return {}
    if not (folder / source.TABLE).is_file():
        return {}
    table = source.read_table(folder)
    return {term: words.model_dump() for term, words in table.labels.items()}


def same_in_both(labels: dict[str, dict[str, str]]) -> set[str]:
    """The words that may stand in a code cell as they are: units and abbreviations."""
    terms = {**glossary(), **labels}
    return {
        word
        for said in terms.values()
        if said["en"] == said["es"]
        for word in WORD.findall(said["en"])
    }


def check_words(path: Path, line: int, text: str, labels: dict[str, dict[str, str]]) -> None:
    """Refuse a code cell that holds a sentence, or shows a word of one language only.

    `line` is the file's line of the cell's first. What a solution returns may be a sentence that
    is the exercise's own matter; its comments may not. Raises UserError with file and line.
    """
    solved = solution_lines(text)
    tree = ast.parse(text)
    outside = [node for node in ast.walk(tree) if getattr(node, "lineno", 0) not in solved]
    for number, comment in comments(text):
        if not DIRECTIVE.match(comment) and SENTENCE.search(comment):
            raise UserError("author.sentence", where=f"{path}:{line + number - 1}", said=comment)
    for node in outside:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            said = FORMULA.sub("", node.value)
            if SENTENCE.search(said):
                where = f"{path}:{line + node.lineno - 1}"
                raise UserError("author.sentence", where=where, said=one_line(node.value))
    common = same_in_both(labels)
    terms = {**glossary(), **labels}
    for node in outside:
        if isinstance(node, ast.Call) and called(node) == "label":
            check_term(path, line, node, terms)
        elif isinstance(node, ast.Call):
            for said, number in shown(node):
                for word in WORD.findall(FORMULA.sub("", said)):
                    if word not in common:
                        raise UserError(
                            "author.shown_word",
                            where=f"{path}:{line + number - 1}",
                            word=word,
                        )


def solution_lines(text: str) -> set[int]:
    """The lines of a cell, counted from 1, that stand between its solution's markers."""
    inside, found = False, set()
    for number, content in enumerate(text.split("\n"), 1):
        marker = MARKER.match(content)
        if marker:
            inside = not marker["end"]
        elif inside:
            found.add(number)
    return found


def check_term(path: Path, line: int, node: ast.Call, terms: dict[str, dict[str, str]]) -> None:
    """A label that is written out has to be in the glossary. Raises UserError."""
    match node.args:
        case [ast.Constant(value=str(term)), *_] if term not in terms:
            raise UserError(
                "author.unknown_label_at",
                where=f"{path}:{line + node.lineno - 1}",
                term=term,
                nearest=nearest(term, list(terms)),
            )


def comments(text: str) -> Iterator[tuple[int, str]]:
    """(line, comment) of each comment of a cell that parses."""
    for token in tokenize.generate_tokens(io.StringIO(text + "\n").readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def called(node: ast.Call) -> str:
    """The last name of what is called: "set_title" of axis.set_title(...)."""
    return str(getattr(node.func, "attr", getattr(node.func, "id", "")))


def shown(node: ast.Call) -> Iterator[tuple[str, int]]:
    """(string, line) of what a call puts before the reader, not those it looks things up by."""
    values = [word.value for word in node.keywords if word.arg in TEXT_FIELDS]
    if called(node) in SHOWS_TEXT:
        values += node.args
    for value in values:
        yield from strings(value)


def strings(node: ast.expr) -> Iterator[tuple[str, int]]:
    match node:
        case ast.Constant(value=str(text)):
            yield text, node.lineno
        case ast.JoinedStr(values=parts) | ast.List(elts=parts) | ast.Tuple(elts=parts):
            for part in parts:
                yield from strings(part)
        case ast.BinOp(left=left, right=right):
            yield from strings(left)
            yield from strings(right)
        case ast.IfExp(body=body, orelse=orelse):
            yield from strings(body)
            yield from strings(orelse)


def one_line(text: str, most: int = 60) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[:most]}…"
