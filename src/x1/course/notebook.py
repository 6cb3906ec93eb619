"""What a lab's notebook imports: `check`, `predict`, `predicted`, `setting`.

`check` grades what the kernel has run, so a notebook need not be saved first; an exercise whose
cell was not run in this kernel is graded as it stands in the saved file, and that is said.
"""

import os
import sys
from math import isfinite
from numbers import Real
from typing import Any, NamedTuple

from x1.config import nearest
from x1.course import learn, load, work
from x1.course.load import CodeCell
from x1.text import UserError, say

SMALL = "X1_LAB_SMALL"


class Prediction(NamedTuple):
    """What was written down before the measurement."""

    value: float
    plus_or_minus: float


class Stop(Exception):
    """A fault of the learner's, shown in the notebook as its sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


def check(exercise: str) -> None:
    """Grade one exercise and print the verdict: what `x1 grade` does, for one."""
    try:
        copy = work.copy_here()
        known = list(copy.lab.exercises)
        if exercise not in known:
            near = nearest(str(exercise), known)
            raise UserError("learn.unknown_exercise", exercise=exercise, nearest=near)
        cells, file = executed_cells(), None
        if not any(load.exercise_of(cell.text) == exercise for cell in cells):
            file = copy.notebook
            cells = load.code_cells(load.read_notebook(file))
            saved = learn.saved_at(file)
            print(say("notebook.from_file", path=learn.relative(file), saved=saved))
        for outcome in learn.grade_cells(copy, cells, [exercise]):
            print(learn.described(outcome, file))
    except UserError as fault:
        raise Stop(str(fault)) from None


def executed_cells() -> list[CodeCell]:
    """The cells this kernel has run, in order; of an exercise that was run again, the last one."""
    if "IPython" not in sys.modules:
        return []
    from IPython.core.getipython import get_ipython

    shell: Any = get_ipython()
    if shell is None:
        return []
    cells: dict[str, CodeCell] = {}
    for count, text in enumerate(shell.history_manager.input_hist_raw):
        exercise = load.exercise_of(text)
        key = f"exercise {exercise}" if exercise else str(count)
        cells.pop(key, None)
        cells[key] = CodeCell(f"[{count}]", text)
    return list(cells.values())


def predict(id: str, value: Any = None, plus_or_minus: Any = None) -> Prediction:
    """Record a prediction, once; the first one stays. It is never graded for being right.

    Raises Stop when a number is missing or cannot be, or the lab has no such prediction.
    """
    try:
        copy = work.copy_here()
        known(copy, id)
        kept = recorded(copy, id)
        if kept is None and any(one is None or one is ... for one in (value, plus_or_minus)):
            raise UserError("notebook.unwritten", id=id)
        if kept is None:
            kept = Prediction(number(id, value), number(id, plus_or_minus))
            if kept.plus_or_minus <= 0:
                raise UserError("notebook.no_interval", id=id, value=plus_or_minus)
            work.record(copy, "predict", id=id, value=kept.value, plus_or_minus=kept.plus_or_minus)
            key = "notebook.predicted"
        else:
            key = "notebook.predicted"
            if (value, plus_or_minus) != tuple(kept):
                key = "notebook.stays"
        print(say(key, id=id, value=f"{kept.value:g}", plus_or_minus=f"{kept.plus_or_minus:g}"))
        return kept
    except UserError as fault:
        raise Stop(str(fault)) from None


def predicted(id: str) -> Prediction:
    """The prediction on record. Raises Stop when there is none: predict first, then measure."""
    try:
        copy = work.copy_here()
        known(copy, id)
        kept = recorded(copy, id)
        if kept is None:
            raise UserError("notebook.predict_first", id=id)
        return kept
    except UserError as fault:
        raise Stop(str(fault)) from None


def setting(value: Any, small: Any) -> Any:
    """`value`, or `small` where X1_LAB_SMALL=1 asks for the tests' setting."""
    return small if os.environ.get(SMALL) == "1" else value


def recorded(copy: work.Copy, id: str) -> Prediction | None:
    """The first prediction of this id since the last reset."""
    for line in work.history(copy, "predict"):
        if line["id"] == id:
            return Prediction(line["value"], line["plus_or_minus"])
    return None


def known(copy: work.Copy, id: str) -> None:
    ids = list(copy.lab.predictions)
    if id not in ids:
        near = nearest(str(id), ids) if ids else "–"
        raise UserError("notebook.unknown_prediction", id=id, nearest=near)


def number(id: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not isfinite(value):
        raise UserError("notebook.not_a_number", id=id, value=value)
    return float(value)
