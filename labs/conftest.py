"""`pytest labs/NN-slug` grades a lab as `x1 grade N` does: in a child process, with its limits.

One item for each test of the lab's `test_lab.py`, which is read here and run there. Graded is the
work copy, or the committed notebook while there is no copy.
"""

import ast
from functools import cached_property
from pathlib import Path

import pytest

from x1.course import learn, source, work
from x1.course.grade import Outcome
from x1.text import UserError


def pytest_pycollect_makemodule(
    module_path: Path, parent: pytest.Collector
) -> pytest.Collector | None:
    """A lab's tests need the learner's functions as fixtures: they are not imported here."""
    if module_path.name != source.GRADER or not (module_path.parent / source.SOURCE).is_file():
        return None
    return LabFile.from_parent(parent, path=module_path)


class LabFile(pytest.File):
    """A lab's tests, graded all at once when the first of them runs."""

    def collect(self):
        for node in ast.parse(self.path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                graded = exercise_of(node)
                if graded:
                    yield LabTest.from_parent(self, name=node.name, exercise=graded)

    @cached_property
    def copy(self) -> work.Copy:
        return work.copy_of(source.read_lab(self.path.parent))

    @cached_property
    def graded(self) -> Path:
        return learn.graded_file(self.copy)

    @cached_property
    def outcomes(self) -> dict[str, Outcome]:
        names = list(self.copy.lab.exercises)
        return {one.exercise: one for one in learn.grade_file(self.copy, self.graded, names)}


class LabTest(pytest.Item):
    """One test of one exercise."""

    def __init__(self, *, exercise: str, **more):
        super().__init__(**more)
        self.exercise = exercise

    def runtest(self) -> None:
        outcome = self.parent.outcomes[self.exercise]
        verdict = outcome.tests.get(self.name, "failed")
        if verdict == "skipped":
            pytest.skip(outcome.sentence)
        as_a_whole = outcome.verdict != "passed" and "failed" not in outcome.tests.values()
        if verdict == "failed" or as_a_whole:
            raise NotPassed(learn.described(outcome, self.parent.graded))

    def repr_failure(self, excinfo, style=None):
        if isinstance(excinfo.value, NotPassed | UserError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, None, f"{self.exercise}: {self.name}"


class NotPassed(Exception):
    """The verdict on an exercise, in words."""


def exercise_of(function: ast.FunctionDef) -> str | None:
    """The id in a test's `@exercise("id")`."""
    for decorator in function.decorator_list:
        match decorator:
            case ast.Call(func=ast.Name(id="exercise"), args=[ast.Constant(value=str(name))]):
                return name
    return None
