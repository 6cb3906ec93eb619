"""`x1 grade`: each exercise of a lab through the lab's own tests, and a verdict in one sentence.

A cell that is the stub still is *not started* and nothing is run for it; the rest goes to one child
process (`x1.course.child`). Every grading is put on record in the work copy's log.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from x1.course import load
from x1.course.load import CodeCell, Graded
from x1.course.source import Lab
from x1.text import UserError, language, say

SEED = "X1_GRADE_SEED"
FORKS = sys.platform == "linux"  # elsewhere a process that has torch in it should not be forked

Verdict = str  # "passed", "wrong", "not_started" or "broken"


@dataclass(frozen=True)
class Limits:
    """What the grading of one exercise may take."""

    cpu_s: float = 30.0
    wall_s: float = 90.0
    memory_bytes: int = 4_000_000_000  # beyond what the grader's own imports take
    output_bytes: int = 5_000_000


@dataclass(frozen=True)
class Case:
    """One exercise to grade on one seed; `refused` is the verdict's sentence if it cannot be."""

    exercise: str
    seed: int
    small: bool
    graded: Graded | None = None
    verdict: Verdict | None = None  # known without running anything
    sentence: str = ""


@dataclass(frozen=True)
class Outcome:
    exercise: str
    verdict: Verdict
    sentence: str
    seed: int
    test: str | None = None  # the first test that failed
    tests: dict[str, str] = field(default_factory=dict)  # "passed", "failed" or "skipped"
    seconds: float = 0.0
    output: str = ""  # what was printed, cut; with several cases, some of the next one's too


def draw_seed() -> int:
    """The seed of a grading: X1_GRADE_SEED, or drawn. Raises UserError if that is no number."""
    said = os.environ.get(SEED)
    if said is None:
        return random.SystemRandom().randrange(1_000_000)
    if not said.isdecimal():
        raise UserError("grade.bad_seed", variable=SEED, value=said)
    return int(said)


def case_of(
    lab: Lab, cells: Sequence[CodeCell], exercise: str, seed: int, small: bool = False
) -> Case:
    """An exercise as the notebook of these code cells has it."""
    try:
        cell = load.find_cell(cells, exercise)
        if load.digest(cell.text) == load.digest(lab.exercises[exercise].stub):
            sentence = say("grade.not_started", exercise=exercise)
            return Case(exercise, seed, small, verdict="not_started", sentence=sentence)
        return Case(exercise, seed, small, load.graded(cells, exercise))
    except UserError as fault:
        return Case(exercise, seed, small, verdict="broken", sentence=str(fault))


def lab_cells(lab: Lab, answers: dict[str, str] | None = None) -> list[CodeCell]:
    """The lab's own code cells, exercises untouched but for the cells in `answers`."""
    answers = answers or {}
    return [
        CodeCell(str(number), answers.get(cell.exercise or "", cell.en))
        for number, cell in enumerate(lab.cells, 2)  # after the notebook's header
        if cell.kind == "code"
    ]


def case(lab: Lab, exercise: str, cell_text: str, seed: int, small: bool = True) -> Case:
    """`cell_text` as the answer to one exercise, in the lab as it is otherwise."""
    return case_of(lab, lab_cells(lab, {exercise: cell_text}), exercise, seed, small)


def run_cases(
    lab: Lab,
    cases: Sequence[Case],
    lang: str | None = None,
    limits: Limits | None = None,
    until_failure: bool = False,
    forks: bool = FORKS,
) -> Iterator[Outcome]:
    """An outcome for each case, in order, as they come.

    `until_failure` stops a case at its first failing test. Raises UserError when pytest is not
    installed or the lab's own tests cannot be collected.
    """
    running = [case for case in cases if case.graded is not None]
    job = {
        "lab": str(lab.folder.resolve()),
        "lang": lang or language(),
        "may_use": {name: exercise.may_use for name, exercise in lab.exercises.items()},
        "messages": {key: words[lang or language()] for key, words in lab.messages.items()},
        "cases": [asdict(case.graded) | {"seed": case.seed, "small": case.small}
                  for case in running if case.graded],
        "until_failure": until_failure,
        "parent": os.getpid(),
        **asdict(limits or Limits()),
    }  # fmt: skip
    outcomes = child(job, forks) if running else iter(())
    for case in cases:
        if case.graded is None:
            yield Outcome(case.exercise, case.verdict or "broken", case.sentence, case.seed)
            continue
        said = next(outcomes, None)
        if said is None:
            raise UserError("grade.no_outcome", exercise=case.exercise)
        said.pop("spoiled", None)
        yield Outcome(case.exercise, seed=case.seed, **said)


def child(job: dict[str, Any], forks: bool) -> Iterator[dict[str, Any]]:
    """The outcomes that the grading process sends for a job. Raises UserError if it fails."""
    from importlib.util import find_spec

    if find_spec("pytest") is None:
        raise UserError("grade.no_pytest")
    results, results_in = os.pipe()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            # -P: a file of the learner's called random.py is not in the grader's way.
            [sys.executable, "-P", "-m", "x1.course.child", "fork" if forks else "spawn",
             str(results_in)],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            pass_fds=(results_in,),
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        )  # fmt: skip
        os.close(results_in)
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(job).encode())
            process.stdin.close()
            with open(results, "rb") as lines:  # noqa: PTH123
                for line in lines:
                    yield json.loads(line)
            if process.wait() != 0:
                said.seek(0)
                fault = said.read().decode("utf-8", "replace").strip()[-2000:]
                raise UserError("grade.grader_broken", lab=job["lab"], fault=fault)
        finally:
            process.terminate()  # it takes its workers with it
            process.wait()
