"""`x1 status`: one row a lab, from the log of each work copy and the hashes of its cells.

Nothing is graded for it unless `--regrade` asks: a verdict counts while the cell and the lab's
tests are those it was given for, and is shown as stale afterwards.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from x1.course import grade, learn, load, source, work
from x1.course.work import Copy
from x1.text import UserError, language, prefer_language, say

STALE = "stale"
MARKS = {**learn.MARKS, "broken": "!", STALE: "?"}

console = Console(highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Row:
    """A lab on the board; `fault` says why its notebook cannot be read."""

    copy: Copy
    verdicts: dict[str, str]
    given_up: frozenset[str]
    predictions: int
    outdated: bool
    fault: str | None = None

    @property
    def started(self) -> bool:
        return self.copy.notebook.exists()


def run_status_command(regrade: bool) -> None:
    """`x1 status`: the board, after grading what is stale if `regrade`."""
    copies = all_copies(source.labs_folder())
    prefer_language(newest_language(copies))
    rows = [row(copy) for copy in copies]
    if regrade:
        for one in rows:
            stale = [name for name, verdict in one.verdicts.items() if verdict == STALE]
            if stale:
                title = one.copy.lab.title[language()]
                console.print(f"{one.copy.lab.number:02d} · {title}")
                for outcome in learn.grade_file(one.copy, one.copy.notebook, stale):
                    console.print(learn.described(outcome, one.copy.notebook))
        rows = [row(copy) for copy in copies]
    console.print(board(rows))
    for one in rows:
        for line in notes(one):
            console.print(line)
    console.print(say("board.legend"))


def all_copies(labs: Path) -> list[Copy]:
    return [work.copy_of(source.read_lab(path)) for path in source.lab_folders(labs)]


def newest_language(copies: list[Copy]) -> str | None:
    """The language of the copy that was worked on last."""
    there = [copy for copy in copies if copy.log.exists() and work.copy_language(copy)]
    newest = max(there, key=lambda copy: copy.log.stat().st_mtime, default=None)
    return work.copy_language(newest) if newest else None


def row(copy: Copy) -> Row:
    """A lab's state, without running anything."""
    fault, verdicts = None, dict.fromkeys(copy.lab.exercises, "not_started")
    if copy.notebook.exists():
        try:
            verdicts = standing(copy)
        except UserError as problem:
            fault = str(problem)
    given_up = {
        line["exercise"] for line in work.history(copy, "solution") if line["after"] == "give_up"
    }
    predictions = {line["id"] for line in work.history(copy, "predict")}
    outdated = copy.notebook.exists() and work.is_outdated(copy)
    return Row(copy, verdicts, frozenset(given_up), len(predictions), outdated, fault)


def standing(copy: Copy) -> dict[str, str]:
    """The verdict on each exercise as its cell stands in the saved notebook, "stale" if unknown."""
    cells = load.code_cells(load.read_notebook(copy.notebook))
    grader = work.fingerprint(copy.lab, source.GRADER)
    known = {
        (line["exercise"], line["digest"]): line["verdict"]
        for line in work.history(copy, "grade")
        if line["grader"] == grader
    }
    found = {}
    for name in copy.lab.exercises:
        case = grade.case_of(copy.lab, cells, name, seed=0)
        found[name] = case.verdict or known.get((name, learn.cell_digest(cells, name)), STALE)
    return found


def board(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("lab", "exercises", "passed", "predictions"):
        table.add_column(say(f"board.{heading}"))
    for one in rows:
        lab = one.copy.lab
        marks = "".join(
            MARKS[verdict] + ("*" if name in one.given_up else "")
            for name, verdict in one.verdicts.items()
        )
        passed = sum(verdict == "passed" for verdict in one.verdicts.values())
        table.add_row(
            f"{lab.number:02d} · {lab.title[language()]}",
            marks if one.started else "–",
            f"{passed}/{len(one.verdicts)}",
            f"{one.predictions}/{len(lab.predictions)}" if lab.predictions else "–",
        )
    return table


def notes(one: Row) -> list[str]:
    """What to type for a lab: start it, grade what is stale, take up its newer version."""
    number = one.copy.lab.number
    if not one.started:
        return [say("board.start", number=number)]
    said = []
    if one.fault:
        said.append(one.fault)
    stale = [name for name, verdict in one.verdicts.items() if verdict == STALE]
    if stale:
        said.append(say("board.stale", number=number, exercises=", ".join(stale)))
    if one.outdated:
        said.append(say("learn.outdated", number=number))
    return said
