"""What a grader imports, and the pytest plugin that runs it on one exercise at a time.

    from x1.course.grading import exercise, expect

    @exercise("mfu")
    def test_half_the_peak(mfu, rng):
        flops = rng.uniform(1e12, 1e15)
        expect(mfu(flops, 1.0, 2 * flops) == 0.5, "half_the_peak", flops=flops)

The fixture named like the exercise is the learner's function, loaded alone in a module of its own.
`rng` is a numpy Generator whose seed changes from grading to grading, `small` tells the tests'
small setting. Everything here runs in the child process of `x1.course.child`.
"""

import ast
import builtins
import dataclasses
import functools
import inspect
import numbers
import os
import signal
import sys
import time
import traceback
import unittest
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest
from _pytest.runner import runtestprotocol

from x1.course import fence
from x1.text import UserError, say

MARKER = "x1_exercise"
COMPARED = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
AGAIN_S = 0.5
MOST_CALLS = 200  # characters of a call's arguments that a sentence shows


class Unmet(AssertionError):
    """A property that the learner's function does not have."""

    def __init__(self, key: str, values: dict[str, Any]) -> None:
        super().__init__(key, values)
        self.key = key
        self.values = values


class OutOfTime(BaseException):
    """Not an Exception: `except Exception` in graded code shall not hold it up."""


class Ended(Exception):
    """Graded code tried to end the program, or the test, instead of returning."""


class Unfit(UserError):
    """The cell, or what its function returned, cannot be graded."""


def exercise(name: str) -> pytest.MarkDecorator:
    """Say which exercise a test grades."""
    return getattr(pytest.mark, MARKER)(name)


def expect(condition: Any, key: str, **values: Any) -> None:
    """Fail the test with the sentence `[messages.KEY]` of lab.toml unless `condition` holds.

    `values` fill its placeholders: the property and the input, never the answer.
    """
    if not condition:
        raise Unmet(key, values)


@dataclass
class Attempt:
    """One grading of one exercise, while it runs."""

    exercise: str
    seed: int = 0
    small: bool = False
    function: Callable[..., Any] | None = None
    call: str | None = None  # the last call of the learner's function
    answer: str | None = None  # what it returned
    faults: list[tuple[str, BaseException | None]] = field(default_factory=list)
    tests: dict[str, str] = field(default_factory=dict)


class Grader:
    """The plugin: fixtures for a lab's exercises, and outcomes kept instead of printed.

    `job` is what `grade.py` sends the child; `loop` runs once the tests are collected.
    """

    def __init__(self, job: dict[str, Any], loop: Callable[["Grader"], None]) -> None:
        self.job = job
        self.loop = loop
        self.items: list[pytest.Item] = []
        self.attempt = Attempt("")

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", f"{MARKER}(name): the exercise a test grades")
        fixtures = {name: self.function_fixture(name) for name in self.job["may_use"]}
        fixtures |= {"rng": self.rng_fixture(), "small": self.small_fixture()}
        config.pluginmanager.register(type("Exercises", (), fixtures)(), "x1-exercises")

    def function_fixture(self, name: str) -> Any:
        @pytest.fixture(name=name)
        def learners_function(_self: Any) -> Callable[..., Any]:
            if self.attempt.exercise != name or self.attempt.function is None:
                pytest.fail(f"a test of {self.attempt.exercise} asks for {name}")
            return self.attempt.function

        return learners_function

    def rng_fixture(self) -> Any:
        @pytest.fixture
        def rng(_self: Any, request: pytest.FixtureRequest) -> Any:
            import numpy as np

            name = list(request.node.name.encode("utf-8"))
            return np.random.default_rng([self.attempt.seed, *name])

        return rng

    def small_fixture(self) -> Any:
        @pytest.fixture
        def small(_self: Any) -> bool:
            return self.attempt.small

        return small

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> pytest.TestReport:
        """A report without its printed form, which would read the sources; faults are kept."""
        name = getattr(item, "originalname", None) or item.name
        fault = call.excinfo.value if call.excinfo else None
        outcome = "passed"
        if isinstance(fault, pytest.skip.Exception):
            outcome = "skipped"
        elif fault is not None:
            outcome = "failed"
            self.attempt.faults.append((name, fault))
        order = ("passed", "skipped", "failed")
        known = self.attempt.tests.get(name, "passed")
        self.attempt.tests[name] = max(known, outcome, key=order.index)
        return pytest.TestReport(
            item.nodeid, item.location, {}, outcome, None, call.when  # type: ignore[arg-type]
        )  # fmt: skip

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            print(report.longreprtext, file=sys.stderr)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not session.testsfailed:  # collection errors: reported by pytest itself
            self.loop(self)
        return True

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        """Grade one case; returns what `grade.Outcome` says of it."""
        began = time.monotonic()
        self.attempt = Attempt(case["exercise"], case["seed"], case["small"])
        chosen = [item for item in self.items if grades(item) == case["exercise"]]
        watch = fence.Snapshot(*{item.module for item in chosen})  # type: ignore[attr-defined]
        verdict, sentence, spoiled = "passed", "", False
        try:
            with time_limit(self.job["cpu_s"], self.job["wall_s"]):
                self.load(case)
                for place, item in enumerate(chosen, 1):
                    later = chosen[place] if place < len(chosen) else None
                    stop = self.attempt.faults and self.job["until_failure"]
                    if not (stop or self.out_of_time()):
                        runtestprotocol(item, log=False, nextitem=later)
        except BaseException as fault:
            self.attempt.faults.append(("", fault))
            spoiled = self.attempt.function is not None  # pytest was left in the middle of a test
        replaced = watch.put_back()
        if replaced:
            verdict, sentence = "wrong", say("grade.replaced", name=replaced)
        elif self.attempt.faults:
            verdict, sentence = self.explain(*self.attempt.faults[0])
        elif "passed" not in self.attempt.tests.values():
            verdict, sentence = "broken", say("grade.no_tests", exercise=case["exercise"])
        failed = next((name for name, _ in self.attempt.faults), None)
        return {
            "verdict": verdict,
            "sentence": sentence,
            "test": failed or None,
            "tests": self.attempt.tests,
            "seconds": time.monotonic() - began,
            "spoiled": spoiled,
        }

    def out_of_time(self) -> bool:
        return any(isinstance(fault, OutOfTime) for _, fault in self.attempt.faults)

    def load(self, case: dict[str, Any]) -> None:
        """Run the imports and the exercise's cell in a module of their own."""
        name = case["exercise"]
        may_use = self.job["may_use"][name]
        module = ModuleType(f"exercise_{name}")
        guarded = dict(vars(builtins)) | {"__import__": fence.guarded_import(name, may_use)}
        vars(module)["__builtins__"] = guarded
        for part in case["imports"]:
            tree = ast.parse(part["text"])
            try:
                execute(tree, part, module)
            except fence.Refused as fault:
                statement = tree.body[0]
                assert isinstance(statement, ast.Import | ast.ImportFrom)
                alias = statement.names[0]
                if alias.asname or "." not in alias.name:
                    setattr(module, alias.asname or alias.name, fence.Withheld(fault))
        cell = case["cell"]
        tree = ast.parse(cell["text"])
        tree.body = [node for node in tree.body if not isinstance(node, ast.Expr)]
        fence.check_text(tree, cell["place"], name, may_use)
        execute(tree, cell, module)
        function = vars(module).get(name)
        if not callable(function):
            raise Unfit("grade.not_a_function", exercise=name, place=cell["place"])
        self.attempt.function = self.watched(function)

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The learner's function, its calls on record, its ways out turned into faults."""
        attempt = self.attempt

        @functools.wraps(function)
        def learners(*args: Any, **kwargs: Any) -> Any:
            attempt.call, attempt.answer = shown_call(attempt.exercise, args, kwargs), None
            try:
                value = function(*args, **kwargs)
            except (SystemExit, KeyboardInterrupt, GeneratorExit, unittest.SkipTest) as fault:
                raise Ended(type(fault).__name__) from fault
            except BaseException as fault:
                if isinstance(fault, Exception | OutOfTime):
                    raise
                raise Ended(type(fault).__name__) from fault
            attempt.answer = shown(value)
            kind = type(value)
            own = kind.__module__ == f"exercise_{attempt.exercise}"
            decides = own and any(name in vars(kind) for name in COMPARED)
            if decides and not dataclasses.is_dataclass(kind):
                raise Unfit("grade.own_comparison", call=attempt.call, type=kind.__name__)
            return value

        learners.__dict__["__signature__"] = inspect.signature(function)
        del learners.__dict__["__wrapped__"]
        return learners

    def explain(self, test: str, fault: BaseException | None) -> tuple[str, str]:
        """(verdict, sentence) of the first fault of a case."""
        name, call = self.attempt.exercise, self.attempt.call or self.attempt.exercise
        place, line = where(fault)
        if isinstance(fault, Unmet):
            return self.unmet(fault)
        if isinstance(fault, OutOfTime):
            at = "grade.slow_at" if place else "grade.slow"
            return "wrong", say(at, call=call, seconds=fault.args[0], place=place, line=line)
        if isinstance(fault, Unfit | fence.Refused):
            return "wrong", str(fault)
        if isinstance(fault, Ended | SystemExit):
            return "wrong", say("grade.ended", call=call, what=fault.args[0] if fault.args else "")
        if is_out_of_memory(fault):
            return "wrong", say("grade.memory", call=call, gb=self.job["memory_bytes"] / 1e9)
        if place is not None and isinstance(fault, NotImplementedError):
            return "not_started", say("grade.not_started", exercise=name)
        if place is not None and isinstance(fault, ModuleNotFoundError):
            return "wrong", say("grade.no_module", name=fault.name, place=place, line=line)
        if place is not None and isinstance(fault, NameError):
            return "wrong", say("grade.no_name", name=fault.name, place=place, line=line)
        what: dict[str, Any] = {
            "fault": one_line(f"{type(fault).__name__}: {fault}"),
            "place": place,
            "line": line,
        }
        if place is not None and not test:
            return "broken", say("grade.cell_raised", **what)
        if place is not None:
            return "wrong", say("grade.raised", call=call, **what)
        if isinstance(fault, AssertionError | pytest.fail.Exception) and self.attempt.call:
            return "wrong", say("grade.plain", call=call, test=test)
        if self.attempt.answer is not None:
            answer = self.attempt.answer
            return "wrong", say(
                "grade.unusable", call=call, answer=answer, test=test, fault=what["fault"]
            )
        return "broken", say("grade.grader", test=test, fault=what["fault"])

    def unmet(self, fault: Unmet) -> tuple[str, str]:
        try:
            values = {
                key: value if isinstance(value, str | numbers.Real) else shown(value)
                for key, value in fault.values.items()
            }
            return "wrong", self.job["messages"][fault.key].format(**values)
        except (KeyError, IndexError, ValueError) as problem:
            return "broken", say("grade.message", name=fault.key, fault=repr(problem))


def execute(tree: ast.Module, part: dict[str, Any], module: ModuleType) -> None:
    ast.increment_lineno(tree, part["line"] - 1)
    exec(compile(tree, f"{fence.MARK}{part['place']}>", "exec", dont_inherit=True), vars(module))


def grades(item: pytest.Item) -> str | None:
    """The exercise that a test grades."""
    mark = item.get_closest_marker(MARKER)
    return mark.args[0] if mark else None


@contextmanager
def time_limit(cpu_s: float, wall_s: float) -> Iterator[None]:
    """Raise OutOfTime in the main thread after so much CPU time, or so much time at all."""

    def stop(number: int, _frame: Any) -> NoReturn:
        raise OutOfTime(cpu_s if number == signal.SIGPROF else wall_s)

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, cpu_s),
              (signal.SIGALRM, signal.ITIMER_REAL, wall_s))  # fmt: skip
    for number, timer, seconds in timers:
        signal.signal(number, stop)
        # Again and again: a bare `except:` in a loop swallows the first one.
        signal.setitimer(timer, seconds, AGAIN_S)
    try:
        yield
    finally:
        for _, timer, _ in timers:
            signal.setitimer(timer, 0.0)


def where(fault: BaseException | None) -> tuple[str | None, int]:
    """(cell, line) of the deepest frame of graded code in a traceback; (None, 0) without one."""
    if fault is None:
        return None, 0
    found: tuple[str | None, int] = (None, 0)
    for frame, line in traceback.walk_tb(fault.__traceback__):
        place = fence.place_of(frame.f_code.co_filename)
        if place is not None:
            found = place, line
    return found


def is_out_of_memory(fault: BaseException | None) -> bool:
    """numpy and Python raise MemoryError, torch a RuntimeError in words."""
    return isinstance(fault, MemoryError) or (
        isinstance(fault, RuntimeError) and "allocate memory" in str(fault)
    )


def shown_call(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """The call as one line: mfu(1e+12, seconds=2.0)."""
    parts = [shown(value) for value in args]
    parts += [f"{key}={shown(value)}" for key, value in kwargs.items()]
    return f"{name}({one_line(', '.join(parts), MOST_CALLS)})"


def shown(value: Any) -> str:
    """A value as a reader can take it in: numbers in six digits, arrays by their shape."""
    match value:
        case bool() | int() | None | str():
            return one_line(repr(value), MOST_CALLS)
        case float():
            return f"{value:.6g}"
        case list() | tuple() if len(value) <= 8:
            inside = ", ".join(shown(one) for one in value)
            return f"[{inside}]" if isinstance(value, list) else f"({inside})"
        case dict() if len(value) <= 8:
            return "{" + ", ".join(f"{shown(k)}: {shown(v)}" for k, v in value.items()) + "}"
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__}{tuple(shape)}"
    if callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    try:
        return one_line(repr(value), 80)
    except Exception:
        return type(value).__name__


def one_line(text: str, most: int = 300) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[:most]}…"


def collect(job: dict[str, Any], grader: Grader) -> int:
    """Run pytest on the lab's grader, with nothing of the project's own settings around it."""
    tests = Path(job["lab"]) / "test_lab.py"
    options = (
        "-s --noconftest --strict-markers --assert=plain --import-mode=importlib "
        "-p no:cacheprovider -p no:terminal -p no:logging -p no:faulthandler -p no:warnings"
    )
    return int(
        pytest.main([*options.split(), "-c", os.devnull, f"--rootdir={job['lab']}", str(tests)],
                    plugins=[grader])
    )  # fmt: skip
