"""A lab's source, `labs/NN-slug/lab.py` (jupytext percent) with its `lab.toml`, as plain records.

What the two files may hold is refused here when they do not, each fault with its file and line,
so that whoever builds, grades or checks a lab meets only sound ones.
"""

import ast
import re
import string
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from x1.config import nearest
from x1.course.cells import Cell, read_cells, without_markers
from x1.course.labels import called, check_words
from x1.text import LANGUAGES, UserError, language

LABS = "labs"
SOURCE = "lab.py"
TABLE = "lab.toml"
GRADER = "test_lab.py"
MUTANTS = "mutants"
NOTEBOOKS = {"en": "lab.ipynb", "es": "lab.es.ipynb"}

FOLDER = re.compile(r"(?P<number>\d\d)-(?P<slug>[a-z0-9-]+)")

Words = dict[str, str]  # a text in each language: {"en": ..., "es": ...}


@dataclass(frozen=True)
class Exercise:
    """`solution` and `stub` are whole cells, `# exercise: id` line included."""

    id: str
    may_use: tuple[str, ...]
    hints: dict[str, tuple[str, ...]]
    solution: str
    stub: str
    line: int


@dataclass(frozen=True)
class Prediction:
    """What the author predicts where the learner writes numbers: only the lab's own runs use it."""

    value: float
    plus_or_minus: float


@dataclass(frozen=True)
class Lab:
    folder: Path
    number: int
    slug: str
    title: Words
    minutes: float
    cost_usd: float
    hardware: Words
    cells: tuple[Cell, ...]
    exercises: dict[str, Exercise]  # in the notebook's order
    messages: dict[str, Words]
    labels: dict[str, Words]
    predictions: dict[str, Prediction]

    @property
    def name(self) -> str:
        """ "02-compute-and-cost": the folder of the lab, its work copy and its chapter."""
        return f"{self.number:02d}-{self.slug}"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Words(_Strict):
    en: str = Field(min_length=1)
    es: str = Field(min_length=1)


class _Hints(_Strict):
    en: list[str] = Field(min_length=1)
    es: list[str] = Field(min_length=1)


class _Exercise(_Strict):
    hints: _Hints
    may_use: list[str] = []


class _Prediction(_Strict):
    value: float
    plus_or_minus: float = Field(gt=0)


class _Table(_Strict):
    number: int = Field(ge=0, le=99)
    slug: str
    title: _Words
    minutes: float = Field(gt=0)
    cost_usd: float = Field(ge=0)
    hardware: _Words
    exercises: dict[str, _Exercise] = Field(min_length=1)
    messages: dict[str, _Words] = {}
    labels: dict[str, _Words] = {}
    predictions: dict[str, _Prediction] = {}


def labs_folder(start: Path | None = None) -> Path:
    """The nearest `labs/` upward from `start` (the current folder).

    Raises UserError when there is none.
    """
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / LABS).is_dir() and any((folder / LABS).glob(f"*/{SOURCE}")):
            return folder / LABS
    raise UserError("author.no_labs", path=here)


def lab_folders(labs: Path) -> list[Path]:
    """Every lab's folder, in the order of the stages."""
    return sorted(path.parent for path in labs.glob(f"*/{SOURCE}"))


def find_lab(number: int, labs: Path | None = None) -> Path:
    """The folder of lab `number`. Raises UserError naming the labs there are."""
    folders = lab_folders(labs or labs_folder())
    known = {}
    for folder in folders:
        if named := FOLDER.fullmatch(folder.name):
            known[int(named["number"])] = folder
    if number not in known:
        raise UserError(
            "author.no_lab", number=number, known=", ".join(f"{n}" for n in sorted(known))
        )
    return known[number]


def read_lab(folder: Path) -> Lab:
    """The lab in `folder`. Raises UserError with the file and line of the first fault."""
    table = read_table(folder)
    path = folder / SOURCE
    cells: list[Cell] = []
    exercises: dict[str, Exercise] = {}
    labels = {key: words.model_dump() for key, words in table.labels.items()}
    for cell, whole in read_cells(path):
        cells.append(cell)
        if cell.kind == "code":
            check_words(path, cell.line, whole, labels)
            check_ids(path, cell.line, whole, table)
        if cell.exercise is None:
            continue
        if cell.exercise not in table.exercises:
            raise UserError(
                "author.unknown_exercise",
                where=f"{path}:{cell.line}",
                id=cell.exercise,
                nearest=nearest(cell.exercise, list(table.exercises)),
                table=TABLE,
            )
        if cell.exercise in exercises:
            raise UserError(
                "author.duplicate_exercise",
                where=f"{path}:{cell.line}",
                id=cell.exercise,
                first=exercises[cell.exercise].line,
            )
        said = table.exercises[cell.exercise]
        exercises[cell.exercise] = Exercise(
            id=cell.exercise,
            may_use=tuple(said.may_use),
            hints={"en": tuple(said.hints.en), "es": tuple(said.hints.es)},
            solution=without_markers(whole),
            stub=cell.en,
            line=cell.line,
        )
    for name in table.exercises:
        if name not in exercises:
            where = f"{folder / TABLE}:{table_line(folder, 'exercises', name)}"
            raise UserError("author.no_exercise_cell", where=where, id=name, source=SOURCE)
    return Lab(
        folder=folder,
        number=table.number,
        slug=table.slug,
        title=table.title.model_dump(),
        minutes=table.minutes,
        cost_usd=table.cost_usd,
        hardware=table.hardware.model_dump(),
        cells=tuple(cells),
        exercises=exercises,
        messages={key: words.model_dump() for key, words in table.messages.items()},
        labels=labels,
        predictions={
            key: Prediction(said.value, said.plus_or_minus)
            for key, said in table.predictions.items()
        },
    )


def read_table(folder: Path) -> _Table:
    """lab.toml, checked against its schema, its hints paired, its number and slug the folder's."""
    path = folder / TABLE
    try:
        table = _Table.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        raise UserError("folder.missing", path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise UserError("config.not_toml", path=path, fault=fault) from None
    except ValidationError as fault:
        first = fault.errors()[0]
        names = [str(part) for part in first["loc"]]
        where = f"{path}:{table_line(folder, *names)}"
        field, kind = ".".join(names), first["type"]
        if kind == "missing":
            raise UserError("author.field_missing", where=where, field=field) from None
        if kind == "extra_forbidden":
            raise UserError("author.field_unknown", where=where, field=field) from None
        raise UserError("author.field_wrong", where=where, field=field, fault=kind) from None
    for name, exercise in table.exercises.items():
        if not name.isidentifier():
            where = f"{path}:{table_line(folder, 'exercises', name)}"
            raise UserError("author.bad_id", where=where, id=name)
        if len(exercise.hints.en) != len(exercise.hints.es):
            raise UserError(
                "author.hint_count",
                where=f"{path}:{table_line(folder, 'exercises', name)}",
                id=name,
                en=len(exercise.hints.en),
                es=len(exercise.hints.es),
            )
    for name, words in table.messages.items():
        if fields_of(words.en) is None or fields_of(words.en) != fields_of(words.es):
            where = f"{path}:{table_line(folder, 'messages', name)}"
            raise UserError("author.placeholders", where=where, message=name)
    if folder.name != f"{table.number:02d}-{table.slug}":
        raise UserError(
            "author.folder_name", where=f"{path}:1", folder=folder.name, number=table.number,
            slug=table.slug,
        )  # fmt: skip
    return table


def fields_of(sentence: str) -> set[str] | None:
    """The names of a message's {placeholders}; None when it is no valid format."""
    try:
        return {name for _, name, _, _ in string.Formatter().parse(sentence) if name is not None}
    except ValueError:
        return None


def table_line(folder: Path, *names: str) -> int:
    """The line of lab.toml that the dotted `names` lead to, as far as they stand in it; else 1."""
    try:
        lines = (folder / TABLE).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError):
        return 1
    at, end = 0, len(lines)
    for name in names:
        said = re.compile(rf"^\s*(?:\[(?:.*\.)?\"?)?{re.escape(name)}\b")
        for number in range(at, end):
            if said.match(lines[number]):
                at = number
                if re.search(rf"{re.escape(name)}\"?\]\s*$", lines[at]):  # its section, to its end
                    inside = range(at + 1, len(lines))
                    end = next((n for n in inside if lines[n].startswith("[")), len(lines))
                break
    return at + 1


def check_ids(path: Path, line: int, text: str, table: _Table) -> None:
    """What a cell checks and predicts is declared in lab.toml, and no prediction is given away.

    Raises UserError with file and line.
    """
    declared: dict[str, dict[str, Any]] = {
        "check": table.exercises, "predict": table.predictions, "predicted": table.predictions,
    }  # fmt: skip
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or called(node) not in declared:
            continue
        where = f"{path}:{line + node.lineno - 1}"
        match node.args:
            case [ast.Constant(value=str(name)), *values]:
                known = list(declared[called(node)])
                if name not in known:
                    raise UserError(
                        "author.unknown_id",
                        where=where,
                        call=called(node),
                        id=name,
                        nearest=nearest(name, known) if known else "–",
                        table=TABLE,
                    )
                given = [*values, *(word.value for word in node.keywords)]
                if called(node) == "predict" and not all(map(is_open, given)):
                    raise UserError("author.prediction_given", where=where, id=name)


def is_open(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in (None, ...)


def chosen(words: Words, lang: str | None = None) -> str:
    """A text of lab.toml in the reader's language."""
    return words[lang if lang in LANGUAGES else language()]
