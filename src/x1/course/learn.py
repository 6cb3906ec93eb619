"""The learner's verbs but for the board: start, reset, grade, hint, solution, and what they say."""

import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from rich.console import Console

from x1.config import nearest
from x1.course import grade, load, source, work
from x1.course.grade import Outcome
from x1.course.load import CodeCell
from x1.course.work import Copy
from x1.text import UserError, chosen_language, language, say

MARKS = {"passed": "✓", "wrong": "✗", "broken": "✗", "not_started": "·"}
NOT_PASSED = 1
LOOK_EVERY_S = 0.5

console = Console(highlight=False, markup=False, soft_wrap=True)


def relative(path: Path) -> Path:
    """The path as it is shortest to read from the current folder."""
    try:
        return path.absolute().relative_to(Path.cwd())
    except ValueError:
        return path


def saved_at(path: Path) -> str:
    """When a file was last saved, in local time."""
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M:%S")


# Start, update, change of language, reset


def run_start_command(number: int, update: bool, carry_from: Path | None) -> None:
    """`x1 start`: make the work copy, or bring it up to date, and say how to open it."""
    copy = work.open_copy(number)
    old = carry_from or (copy.notebook if copy.notebook.exists() else None)
    if carry_from is not None and not carry_from.is_file():
        raise UserError("folder.missing", path=carry_from)
    has = work.copy_language(copy)
    lang = chosen_language() or has or language()
    if copy.notebook.exists() and not update and carry_from is None and lang == (has or lang):
        console.print(say("learn.is_there", path=relative(copy.notebook)))
        if work.is_outdated(copy):
            console.print(say("learn.outdated", number=number))
    else:
        report_made(copy, *work.make(copy, lang, old))
    edited = work.edited_committed(copy.lab)
    if edited is not None and carry_from is None:
        console.print(say("learn.edited", path=relative(edited), number=number))
    how_to_open(copy)


def run_reset_command(number: int) -> None:
    """`x1 reset`: a notebook as on the first day; the old one becomes a backup."""
    copy = work.open_copy(number)
    if not copy.notebook.exists():
        raise UserError("learn.nothing_to_reset", number=number, path=relative(copy.notebook))
    lang = chosen_language() or work.copy_language(copy) or language()
    report_made(copy, *work.make(copy, lang, copy.notebook, keep=False))
    how_to_open(copy)


def report_made(copy: Copy, backup: Path | None, put_back: int) -> None:
    console.print(say("learn.made", path=relative(copy.notebook)))
    if put_back:
        console.print(say("learn.put_back", count=put_back))
    if backup is not None:
        console.print(say("learn.backup", path=relative(backup)))


def how_to_open(copy: Copy) -> None:
    root = copy.path.parent.parent
    notebook = copy.notebook.relative_to(root)
    console.print(say("learn.open", number=copy.lab.number, root=root, notebook=notebook))


# Grade


def run_grade_command(number: int, watch: bool) -> int:
    """`x1 grade`: every exercise's verdict; 0 when all passed, 1 when one did not."""
    copy = work.open_copy(number)
    if watch:
        return watch_and_grade(copy)
    path = graded_file(copy)
    return report(copy, path, grade_file(copy, path, list(copy.lab.exercises)))


def graded_file(copy: Copy) -> Path:
    """The notebook to grade: the work copy, or, before there is one, the committed notebook.

    Says so when the committed notebook itself was worked in.
    """
    edited = work.edited_committed(copy.lab)
    if edited is not None:
        console.print(say("learn.edited", path=relative(edited), number=copy.lab.number))
    if copy.notebook.exists():
        return copy.notebook
    path = edited or copy.lab.folder / source.NOTEBOOKS[language()]
    if not path.is_file():
        raise UserError("learn.not_started", number=copy.lab.number, path=relative(copy.notebook))
    return path


def grade_file(copy: Copy, path: Path, exercises: Sequence[str]) -> Iterator[Outcome]:
    return grade_cells(copy, load.code_cells(load.read_notebook(path)), exercises)


def grade_cells(
    copy: Copy, cells: Sequence[CodeCell], exercises: Sequence[str], seed: int | None = None
) -> Iterator[Outcome]:
    """Grade exercises as these code cells have them; each outcome goes into the log."""
    seed = grade.draw_seed() if seed is None else seed
    cases = [grade.case_of(copy.lab, cells, name, seed) for name in exercises]
    for outcome in grade.run_cases(copy.lab, cases):
        work.record(
            copy,
            "grade",
            exercise=outcome.exercise,
            verdict=outcome.verdict,
            sentence=outcome.sentence,
            test=outcome.test,
            seed=outcome.seed,
            digest=cell_digest(cells, outcome.exercise),
            grader=work.fingerprint(copy.lab, source.GRADER),
            seconds=round(outcome.seconds, 3),
        )
        yield outcome


def cell_digest(cells: Sequence[CodeCell], exercise: str) -> str | None:
    """What the exercise's cell says; None when it cannot be found."""
    try:
        return load.digest(load.find_cell(cells, exercise).text)
    except UserError:
        return None


def report(copy: Copy, path: Path, outcomes: Iterator[Outcome]) -> int:
    """Print verdicts as they come, then the count and what to do next; the exit code."""
    title = copy.lab.title[language()]
    console.print(say("learn.grading", number=f"{copy.lab.number:02d}", title=title,
                      path=relative(path), saved=saved_at(path)))  # fmt: skip
    seen = []
    with console.status(say("learn.working")):
        for outcome in outcomes:
            console.print(described(outcome, path))
            seen.append(outcome)
    passed = sum(outcome.verdict == "passed" for outcome in seen)
    console.print(say("learn.passed", passed=passed, count=len(seen),
                      seed=seen[0].seed if seen else 0))  # fmt: skip
    missing = [outcome for outcome in seen if outcome.verdict != "passed"]
    if missing:
        console.print(say("learn.next", number=copy.lab.number, exercise=missing[0].exercise))
    return NOT_PASSED if missing else 0


def described(outcome: Outcome, path: Path | None) -> str:
    """A verdict in words, with what the code printed when it did not pass.

    `path` is the file that was graded, None for what the kernel has run.
    """
    word = say(f"learn.verdict.{outcome.verdict}")
    lines = [f"{MARKS[outcome.verdict]} {outcome.exercise}: {word}"]
    if outcome.verdict == "not_started" and path is None:
        lines = [f"{lines[0]} ({say('learn.as_run')})"]
    elif outcome.verdict == "not_started" and path is not None:
        said = say("learn.as_saved", path=relative(path), saved=saved_at(path))
        lines = [f"{lines[0]} ({said})"]
    elif outcome.sentence:
        lines += [f"  {line}" for line in outcome.sentence.splitlines()]
    if outcome.verdict in ("wrong", "broken") and outcome.output.strip():
        lines.append("  " + say("learn.printed"))
        lines += [f"  │ {line[:200]}" for line in outcome.output.splitlines()[:20]]
    return "\n".join(lines)


def watch_and_grade(copy: Copy) -> int:
    """Grade whenever the notebook is saved, what changed in it; ends once all have passed."""
    path = graded_file(copy)
    seen: dict[str, str | None] = {}
    passed: set[str] = set()
    last = None
    while True:
        stamp = path.stat().st_mtime_ns if path.exists() else None
        if stamp is None or stamp == last:
            time.sleep(LOOK_EVERY_S)
            continue
        try:
            cells = load.code_cells(load.read_notebook(path))
        except UserError:  # being written
            time.sleep(LOOK_EVERY_S)
            continue
        last = stamp
        now = {name: cell_digest(cells, name) for name in copy.lab.exercises}
        changed = [name for name in now if name not in seen or seen[name] != now[name]]
        seen = now
        if not changed:
            continue
        passed -= set(changed)
        outcomes = []
        with console.status(say("learn.working")):
            for outcome in grade_cells(copy, cells, changed):
                console.print(described(outcome, path))
                outcomes.append(outcome)
        passed |= {outcome.exercise for outcome in outcomes if outcome.verdict == "passed"}
        console.print(say("learn.passed", passed=len(passed), count=len(now),
                          seed=outcomes[0].seed))  # fmt: skip
        if len(passed) == len(now):
            return 0
        console.print(say("learn.watching", path=relative(path)))


# Hint, solution


def run_hint_command(number: int, exercise: str | None) -> None:
    """`x1 hint`: one hint more of an exercise, the first that has not passed if none is named."""
    copy = work.open_copy(number)
    name = known_exercise(copy, exercise) or first_unsolved(copy)
    hints = copy.lab.exercises[name].hints[language()]
    before = sum(line["exercise"] == name for line in work.history(copy, "hint"))
    count = min(before + 1, len(hints))
    if before < len(hints):
        work.record(copy, "hint", exercise=name, number=count)
    for place, hint in enumerate(hints[:count], 1):
        console.print(say("learn.hint", exercise=name, place=place, count=len(hints), hint=hint))
    if count == len(hints):
        console.print(say("learn.no_more_hints", number=number, exercise=name))
    else:
        console.print(say("learn.more_hints", number=number, exercise=name))


def run_solution_command(number: int, exercise: str | None, give_up: bool) -> None:
    """`x1 solution`: what was passed, and with `give_up` the rest too; that is put on record."""
    copy = work.open_copy(number)
    name = known_exercise(copy, exercise)
    wanted = [name] if name else list(copy.lab.exercises)
    passed = passed_exercises(copy)
    given = {line["exercise"] for line in work.history(copy, "solution")}
    free = [one for one in wanted if one in passed or one in given or give_up]
    if not free:
        raise UserError("learn.no_solution_yet", number=number, exercises=", ".join(wanted))
    for one in free:
        after = "pass" if one in passed else "give_up"
        if one not in given:
            work.record(copy, "solution", exercise=one, after=after)
        console.print(f"{copy.lab.exercises[one].solution}\n")
        console.print(say(f"learn.shown.{after}", exercise=one))
    withheld = [one for one in wanted if one not in free]
    if withheld:
        console.print(say("learn.withheld", exercises=", ".join(withheld)))


def known_exercise(copy: Copy, exercise: str | None) -> str | None:
    if exercise is not None and exercise not in copy.lab.exercises:
        near = nearest(exercise, list(copy.lab.exercises))
        raise UserError("learn.unknown_exercise", exercise=exercise, nearest=near)
    return exercise


def passed_exercises(copy: Copy) -> set[str]:
    """The exercises that have passed once since the last reset."""
    return {line["exercise"] for line in work.history(copy, "grade") if line["verdict"] == "passed"}


def first_unsolved(copy: Copy) -> str:
    """The first exercise whose last grade is no pass; the last exercise if all have passed."""
    last = {line["exercise"]: line["verdict"] for line in work.history(copy, "grade")}
    names = list(copy.lab.exercises)
    return next((name for name in names if last.get(name) != "passed"), names[-1])
