"""The cells of a lab.py (jupytext percent): prose with its twin, code, exercises.

Whatever the format does not allow is refused with its file and line.
"""

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from x1.text import UserError

HEADER = re.compile(r"\A# ---\n.*?^# ---$", re.DOTALL | re.MULTILINE)
CELL = re.compile(r"# %%(?P<prose> \[markdown\])?(?P<options>(?: \w+=\"[^\"]*\")*)\s*")
OPTION = re.compile(r"(\w+)=\"([^\"]*)\"")
EXERCISE_LINE = re.compile(r"^# exercise:\s*(\S*)\s*$")
MARKER = re.compile(r"^(?P<indent>\s*)# (?P<end>end )?solution\s*$")
STUB = "raise NotImplementedError"


@dataclass(frozen=True)
class Cell:
    """One cell. `en` and `es` are the built notebooks' texts: equal in a code cell, which is
    without its solution if it is an exercise. `line` is where the (English) text begins.
    """

    id: str
    kind: str  # "markdown" or "code"
    en: str
    es: str
    line: int
    exercise: str | None = None

    def text(self, lang: str) -> str:
        return self.es if lang == "es" else self.en


def read_cells(path: Path) -> Iterator[tuple[Cell, str]]:
    """The cells of a lab.py, prose with its twin, each with its text with the solution in it.

    Raises UserError with the line of the first fault.
    """
    after, count = "top", 0
    unpaired: tuple[str, int] | None = None
    for kind, lang, named, text, line in raw_cells(path):
        where = f"{path}:{line}"
        if unpaired is not None and (kind, lang) != ("markdown", "es"):
            raise UserError("author.no_twin", where=f"{path}:{unpaired[1]}", language="es")
        if kind == "markdown":
            if lang == "en":
                unpaired = (text, line)
                continue
            if lang != "es":
                raise UserError("author.no_language", where=where)
            if unpaired is None:
                raise UserError("author.no_twin", where=where, language="en")
            english, line = unpaired
            unpaired = None
            count += 1
            yield Cell(cell_id(after, count), kind, english, text, line), english
            continue
        check_code(path, line, text, named)
        if named is None:
            count += 1
            yield Cell(cell_id(after, count), kind, text, text, line), text
        else:
            after, count = named, 0
            stub = without_solution(path, line, text)
            check_definition(path, line, text, stub, named)
            yield Cell(f"x1-{named}", kind, stub, stub, line, named), text
    if unpaired is not None:
        raise UserError("author.no_twin", where=f"{path}:{unpaired[1]}", language="es")


def raw_cells(path: Path) -> Iterator[tuple[str, str | None, str | None, str, int]]:
    """(kind, lang, exercise, text, line) of each cell.

    It reads what labs use of jupytext's format, as jupytext does (tested): importing jupytext
    would cost a learner two seconds at each check of an exercise.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
    except FileNotFoundError:
        raise UserError("folder.missing", path=path) from None
    except UnicodeDecodeError:
        raise UserError("author.not_utf8", path=path) from None
    starts = [number for number, line in enumerate(lines) if line.startswith("# %%")]
    before = "\n".join(lines[: starts[0]] if starts else lines)
    if HEADER.sub("", before).strip():
        raise UserError("author.before_first_cell", where=f"{path}:1")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        where = f"{path}:{start + 1}"
        marker = CELL.fullmatch(lines[start])
        options = OPTION.findall(marker["options"]) if marker else []
        if marker is None or {name for name, _ in options} - {"lang", "exercise"}:
            raise UserError("author.cell_marker", where=where, marker=lines[start])
        first, last = start + 1, end
        while first < last and not lines[first].strip():
            first += 1
        while last > first and not lines[last - 1].strip():
            last -= 1
        body, kind = lines[first:last], "markdown" if marker["prose"] else "code"
        if not body:
            raise UserError("author.empty_cell", where=where)
        if kind == "markdown":
            for number, line in enumerate(body, first + 1):
                if not (line == "#" or line.startswith("# ")):
                    raise UserError("author.prose_line", where=f"{path}:{number}")
            body = [line[2:] for line in body]
        named = dict(options)
        yield kind, named.get("lang"), named.get("exercise"), "\n".join(body), first + 1


def cell_id(after: str, count: int) -> str:
    """A stable id: it stays when a cell's words change, or those behind another exercise do."""
    return "x1-" + hashlib.sha256(f"{after}/{count}".encode()).hexdigest()[:10]


def check_code(path: Path, line: int, text: str, named: str | None) -> None:
    """The markers of a code cell and its syntax: an exercise's are where they belong, others' not.

    Raises UserError with the line.
    """
    lines = text.split("\n")
    said = EXERCISE_LINE.match(lines[0])
    if named is not None and (said is None or said[1] != named):
        raise UserError("author.first_line", where=f"{path}:{line}", id=named)
    for number, content in enumerate(lines):
        where = f"{path}:{line + number}"
        if EXERCISE_LINE.match(content) and (named is None or number > 0):
            raise UserError("author.stray_exercise_line", where=where)
        if MARKER.match(content) and named is None:
            raise UserError("author.stray_marker", where=where)
    try:
        ast.parse(text)
    except SyntaxError as fault:
        where = f"{path}:{line + (fault.lineno or 1) - 1}"
        raise UserError("author.syntax", where=where, fault=fault.msg) from None


def without_solution(path: Path, line: int, text: str) -> str:
    """The cell with one `raise NotImplementedError` in place of each marked solution.

    Raises UserError with the line of an unbalanced, empty or missing pair of markers.
    """
    kept: list[str] = []
    begun: int | None = None
    inside: list[str] = []
    blocks = 0
    for number, content in enumerate(text.split("\n"), line):
        marker = MARKER.match(content)
        if marker is None:
            (kept if begun is None else inside).append(content)
        elif bool(marker["end"]) == (begun is None):
            key = "author.end_without_start" if marker["end"] else "author.nested_solution"
            raise UserError(key, where=f"{path}:{number}")
        elif begun is None:
            begun, inside = number, []
            kept.append(f"{marker['indent']}{STUB}")
        else:
            if not any(part.strip() for part in inside):
                raise UserError("author.empty_solution", where=f"{path}:{begun}")
            begun = None
            blocks += 1
    if begun is not None:
        raise UserError("author.start_without_end", where=f"{path}:{begun}")
    if not blocks:
        raise UserError("author.no_solution", where=f"{path}:{line}")
    return "\n".join(kept)


def without_markers(text: str) -> str:
    """The cell with its solution, the marker lines gone."""
    return "\n".join(part for part in text.split("\n") if not MARKER.match(part))


def check_definition(path: Path, line: int, text: str, stub: str, named: str) -> None:
    """An exercise's cell defines a function of its name, and still parses without its solution."""
    for version in (text, stub):
        try:
            tree = ast.parse(version)
        except SyntaxError as fault:
            where = f"{path}:{line}"
            raise UserError("author.stub_syntax", where=where, fault=fault.msg) from None
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if named not in defined:
            raise UserError("author.no_function", where=f"{path}:{line}", id=named)
