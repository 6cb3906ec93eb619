"""From a notebook to what is graded: one exercise's cell and the imports it needs, and no more.

Nothing is run here. An exercise is found by its line `# exercise: ID`, wherever its cell was moved
and whatever program saved the notebook; ids and metadata of cells are never relied on.
"""

import ast
import builtins
import hashlib
import json
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from x1.text import UserError

EXERCISE = re.compile(r"^#[ \t]*exercise:[ \t]*(\S+)[ \t]*$", re.MULTILINE)
MAGIC = re.compile(r"^(\s*)(?:[%!].*|\S.*\?\s*)$")
CELL_MAGIC = re.compile(r"\A\s*%%(\w+).*")
AROUND_PYTHON = {"time", "timeit", "capture", "prun"}  # cell magics whose body is still Python


@dataclass(frozen=True)
class CodeCell:
    """A code cell; `place` names it to the reader: "12", or "[7]" as the kernel counts."""

    place: str
    text: str


@dataclass(frozen=True)
class Part:
    """A piece of Python that stands at line `line` of the cell `place`."""

    place: str
    line: int
    text: str


@dataclass(frozen=True)
class Graded:
    """What one exercise is graded on: the imports its cell needs, then the cell."""

    exercise: str
    place: str
    imports: tuple[Part, ...]
    cell: Part


def read_notebook(path: Path) -> dict[str, Any]:
    """A notebook's JSON object. Raises UserError naming the line at which it is broken."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("folder.missing", path=path) from None
    except json.JSONDecodeError as fault:
        raise UserError("load.not_json", path=path, line=fault.lineno) from None
    except UnicodeDecodeError:
        raise UserError("author.not_utf8", path=path) from None
    if not isinstance(record, dict) or not isinstance(record.get("cells"), list):
        raise UserError("load.not_notebook", path=path)
    return record


def source_of(cell: dict[str, Any]) -> str:
    """A cell's text; on disk it is a string or a list of lines."""
    source = cell.get("source", "")
    return "".join(source) if isinstance(source, list) else str(source)


def code_cells(notebook: dict[str, Any]) -> list[CodeCell]:
    """The code cells, counted from 1 over all cells, as a reader counts them."""
    return [
        CodeCell(str(number), source_of(cell))
        for number, cell in enumerate(notebook["cells"], 1)
        if isinstance(cell, dict) and cell.get("cell_type") == "code"
    ]


def exercise_of(text: str) -> str | None:
    """The id that the cell's line `# exercise: ID` gives, if it has one."""
    found = EXERCISE.search(text)
    return found[1] if found else None


def find_cell(cells: Sequence[CodeCell], exercise: str) -> CodeCell:
    """The cell of an exercise. Raises UserError when there is none, or more than one."""
    found = [cell for cell in cells if exercise_of(cell.text) == exercise]
    if not found:
        raise UserError("load.no_cell", exercise=exercise)
    if len(found) > 1:
        places = ", ".join(cell.place for cell in found)
        raise UserError("load.two_cells", exercise=exercise, places=places)
    return found[0]


def python(text: str) -> str:
    """The cell's text with IPython's own lines made harmless, every line where it was."""
    try:
        ast.parse(text)
        return text
    except (SyntaxError, ValueError):
        pass
    magic = CELL_MAGIC.match(text)
    if magic and magic[1] not in AROUND_PYTHON:
        return ""
    if magic:
        text = CELL_MAGIC.sub("", text, count=1)
    return "\n".join(MAGIC.sub(r"\1pass", line) for line in text.split("\n"))


def parse(cell: CodeCell) -> ast.Module:
    """The cell's statements. Raises UserError with cell and line when it is not Python."""
    try:
        return ast.parse(python(cell.text))
    except SyntaxError as fault:
        raise UserError(
            "load.syntax", place=cell.place, line=fault.lineno or 1, fault=fault.msg
        ) from None
    except ValueError as fault:  # a null byte
        raise UserError("load.syntax", place=cell.place, line=1, fault=fault) from None
    except (RecursionError, MemoryError):
        raise UserError("load.syntax", place=cell.place, line=1, fault="nested too deep") from None


def without_looking(tree: ast.Module) -> ast.Module:
    """The statements but for bare expressions: a call made to look at its result, `check(...)`."""
    kept = [node for node in tree.body if not isinstance(node, ast.Expr)]
    return ast.Module(body=kept, type_ignores=[])


def digest(text: str) -> str:
    """What a cell says, comments, spacing and calls made to look aside: 16 hex digits."""
    try:
        said = ast.dump(without_looking(ast.parse(python(text))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        said = text
    return hashlib.sha256(said.encode("utf-8", "replace")).hexdigest()[:16]


def graded(cells: Sequence[CodeCell], exercise: str) -> Graded:
    """The exercise's cell with every import of the notebook that binds a name it uses.

    Raises UserError, in the words of a verdict, when the cell is missing, doubled, not Python,
    no longer defines its function, or uses something that another cell defines.
    """
    cell = find_cell(cells, exercise)
    tree = without_looking(parse(cell))
    used, bound = names(tree)
    others = [(one, theirs) for one in cells if one != cell and (theirs := parsed(one))]
    if exercise not in bound:
        for other, theirs in others:
            if exercise in names(theirs)[1]:
                raise UserError(
                    "load.moved", exercise=exercise, place=cell.place, other=other.place
                )
        raise UserError("load.undefined", exercise=exercise, place=cell.place)
    wanted = used - bound - set(dir(builtins))
    imports, imported, anything = [], set(), False
    for other, theirs in others:
        for part, name in imports_of(other, theirs):
            if name == "*":
                anything = True
            if name in wanted or name == "*":
                imports.append(part)
                imported.add(name)
    for name in sorted(wanted - imported):
        for other, theirs in others:
            if not anything and name in names(theirs)[1]:
                raise UserError(
                    "load.elsewhere",
                    name=name, exercise=exercise, place=cell.place, other=other.place,
                )  # fmt: skip
    return Graded(exercise, cell.place, tuple(imports), Part(cell.place, 1, python(cell.text)))


@lru_cache(maxsize=512)
def parsed(cell: CodeCell) -> ast.Module | None:
    """The statements of another cell than the graded one: what is not Python there is not read.

    Kept, because a check of a lab grades thousands of answers among the same other cells; no one
    changes what is returned.
    """
    try:
        return parse(cell)
    except UserError:
        return None


def imports_of(cell: CodeCell, tree: ast.Module) -> Iterator[tuple[Part, str]]:
    """(import of one name, the name it binds) for each top-level import; "*" binds any."""
    for node in tree.body:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            one: ast.stmt = (
                ast.Import(names=[alias])
                if isinstance(node, ast.Import)
                else ast.ImportFrom(module=node.module, names=[alias], level=node.level)
            )
            name = alias.asname or alias.name.partition(".")[0]
            if isinstance(node, ast.ImportFrom):
                name = alias.asname or alias.name
            yield Part(cell.place, node.lineno, ast.unparse(one)), name


def names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """(global names the statements use, names they bind at the top level)."""
    top = symtable.symtable(ast.unparse(tree), "cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    used = {s.get_name() for s in top.get_symbols() if s.is_referenced()}
    inner = list(top.get_children())
    while inner:
        table = inner.pop()
        used |= {s.get_name() for s in table.get_symbols() if s.is_global()}
        bound |= {
            s.get_name() for s in table.get_symbols() if s.is_declared_global() and s.is_assigned()
        }
        inner += table.get_children()
    return used, bound
