"""`x1 author check`: a lab's grader graded, on answers whose verdict is known beforehand.

Untouched cells, the reference, other right solutions, named misconceptions, mutations of the
reference and shortcuts all go through the grading a learner's answers go through. What comes out
otherwise than it should is a finding: one sentence for the author.
"""

import ast
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from x1.course import build, grade, mutate, parity
from x1.course.source import GRADER, MUTANTS, SOURCE, Exercise, Lab, fields_of
from x1.text import UserError, say

SEEDS = 200  # for the reference
SHARE = 5  # the other answers are graded on a fifth of them: time
REFERENCE = "the reference"
WRAPPED = "the reference inside a wrapper"
EQUIVALENT = "equivalent.toml"
CAUGHT_BY = "# caught by: "
SLOWEST_MUTANT = 8.0  # times the reference's own time, after which an answer counts as refused

Report = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """A cell to grade and what has to come of it. `name` names it to the author."""

    exercise: str
    name: str
    text: str
    expected: grade.Verdict
    caught_by: str | None = None
    seed: int = 0
    mutation: mutate.Mutation | None = None


@dataclass
class Grader:
    """What test_lab.py says of itself, read without running it."""

    tests: dict[str, list[str]] = field(default_factory=dict)  # exercise -> names of its tests
    drawn: set[str] = field(default_factory=set)  # exercises whose cases are drawn from `rng`
    said: list[tuple[str, set[str], int]] = field(default_factory=list)  # message, fields, line
    oracles: list[str] = field(default_factory=list)  # its own helper functions, by name
    package: list[str] = field(default_factory=list)  # what it uses of x1: "x1.flops.mfu"


def check_lab(lab: Lab, seeds: int = SEEDS, report: Report = lambda _: None) -> list[str]:
    """Every finding about a lab; an empty list is proof that its grader holds.

    `report` is told of each exercise that is done. Raises UserError when the lab's tests cannot
    be collected.
    """
    grader = read_grader(lab)
    found = [*built_findings(lab), *static_findings(lab, grader)]
    folders = {path.name for path in (lab.folder / MUTANTS).glob("*/")} - set(lab.exercises)
    found += [say("author.stray_mutants", path=lab.folder / MUTANTS / name) for name in folders]
    whole = [answer for e in lab.exercises.values() for answer in named_answers(lab, e)]
    named = list(graded(lab, whole))
    slowest = max((o.seconds for a, o in named if a.expected == "passed"), default=1.0)
    found += [said for answer, outcome in named if (said := judged(lab, answer, outcome))]
    made = []
    for exercise in lab.exercises.values():
        answers = [*made_answers(exercise, grader), *drawn_answers(whole, exercise, seeds)]
        drawn = exercise.id in grader.drawn
        made.append([answer for answer in answers if drawn or answer.seed == 0])
    limits = grade.Limits(cpu_s=2 + SLOWEST_MUTANT * slowest)
    outcomes = graded(lab, [answer for answers in made for answer in answers], limits, True)
    for exercise, answers in zip(lab.exercises.values(), made, strict=True):
        known = Equivalents(lab, exercise.id)
        for answer, outcome in islice(outcomes, len(answers)):
            said = judged(lab, answer, outcome)
            if said and not (answer.mutation and known.cover(answer.mutation)):
                found.append(said)
        found += known.stale()
        report(say("author.checked", lab=lab.name, exercise=exercise.id, count=len(answers)))
    return found


def graded(
    lab: Lab, answers: list[Answer], limits: grade.Limits | None = None, until_failure: bool = False
) -> Iterator[tuple[Answer, grade.Outcome]]:
    """Each answer with its outcome, as they come from one grading process."""
    cases = [grade.case(lab, a.exercise, a.text, seed=a.seed, small=True) for a in answers]
    yield from zip(answers, grade.run_cases(lab, cases, "en", limits, until_failure), strict=True)


def judged(lab: Lab, answer: Answer, outcome: grade.Outcome) -> str | None:
    """The finding, if the verdict is not the one it has to be."""
    where = f"{lab.name} {answer.exercise}"
    if outcome.verdict != answer.expected:
        key = "author.wrong_verdict" if answer.seed == 0 else "author.wrong_verdict_at"
        return say(
            key,
            where=where,
            answer=answer.name,
            verdict=outcome.verdict,
            expected=answer.expected,
            seed=answer.seed,
            sentence=outcome.sentence or "–",
        )
    if answer.expected == "not_started":
        for test, result in outcome.tests.items():
            if result == "passed":
                return say("author.passes_untouched", where=where, test=test)
    if answer.caught_by is not None and outcome.tests.get(answer.caught_by) != "failed":
        return say(
            "author.not_caught",
            where=where,
            answer=answer.name,
            test=answer.caught_by,
            failed=", ".join(t for t, result in outcome.tests.items() if result == "failed"),
        )
    return None


def named_answers(lab: Lab, exercise: Exercise) -> Iterator[Answer]:
    """The untouched cell, the reference, and those under mutants/. Raises UserError for a file
    that is not named or headed as it should be.
    """
    # Something is added, or the stub would be known for one without running a test on it.
    yield Answer(exercise.id, "the stub", f"{exercise.stub}\n_untouched = True\n", "not_started")
    yield Answer(exercise.id, "the stub as it is", exercise.stub, "not_started")
    yield Answer(exercise.id, REFERENCE, exercise.solution, "passed")
    control = mutate.control(exercise.solution, exercise.id)
    yield Answer(exercise.id, WRAPPED, control, "passed")
    for path in sorted((lab.folder / MUTANTS / exercise.id).glob("*.py")):
        text = path.read_text("utf-8")
        if path.name.startswith("right-"):
            yield Answer(exercise.id, path.name, text, "passed")
        elif path.name.startswith("wrong-") and text.startswith(CAUGHT_BY):
            caught_by = text.split("\n", 1)[0].removeprefix(CAUGHT_BY).strip()
            yield Answer(exercise.id, path.name, text, "wrong", caught_by)
        else:
            raise UserError("author.mutant_file", path=path, line=f"{CAUGHT_BY}TEST")


def made_answers(exercise: Exercise, grader: Grader) -> Iterator[Answer]:
    """The wrong answers that rules make, each to be refused."""
    top = mutate.first_line(exercise.solution)
    made = [
        *mutate.mutations(exercise.solution),
        *mutate.shortcuts(exercise.solution, exercise.id),
        *mutate.delegates(top, exercise.id, delegate_names(exercise, grader)),
        *mutate.thefts(top, exercise.id, grader.oracles),
    ]
    for one in made:
        name = one.now if one.was == mutate.GONE else f"{one.was} → {one.now}"
        yield Answer(exercise.id, name, one.text, "wrong", mutation=one)


def drawn_answers(named: list[Answer], exercise: Exercise, seeds: int) -> Iterator[Answer]:
    """The reference again, on the seeds after the first; the files' answers on a share of them."""
    for answer in named:
        if answer.exercise == exercise.id and answer.expected != "not_started":
            share = {REFERENCE: 1, WRAPPED: seeds}.get(answer.name, SHARE)
            for seed in range(1, 1 + (seeds - 1) // share):
                yield replace(answer, seed=seed, caught_by=None)


def delegate_names(exercise: Exercise, grader: Grader) -> list[str]:
    """Functions of the package that could do the work: those the exercise may call, those its
    tests call, and those of its name.
    """
    names = set(grader.package)
    for module, functions in package_functions().items():
        for function in functions:
            dotted = f"{module}.{function}"
            allowed = any(dotted == m or dotted.startswith(f"{m}.") for m in exercise.may_use)
            if allowed or function == exercise.id:
                names.add(dotted)
    return sorted(names)


def package_functions() -> dict[str, list[str]]:
    """The public functions of each module of x1, read from their sources."""
    found = {}
    for path in sorted(Path(__file__).parents[1].glob("*.py")):
        body = ast.parse(path.read_text("utf-8")).body
        names = [n.name for n in body if isinstance(n, ast.FunctionDef)]
        found[f"x1.{path.stem}"] = [name for name in names if not name.startswith("_")]
    return found


def read_grader(lab: Lab) -> Grader:
    """What the lab's test_lab.py declares. Raises UserError when it is missing or not Python."""
    path = lab.folder / GRADER
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("folder.missing", path=path) from None
    except SyntaxError as fault:
        where = f"{path}:{fault.lineno}"
        raise UserError("author.syntax", where=where, fault=fault.msg) from None
    grader = Grader()
    modules: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "x1":
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                modules[alias.asname or alias.name] = dotted
                if dotted.count(".") > 1 and not dotted.startswith("x1.course"):
                    grader.package.append(dotted)
        if isinstance(node, ast.FunctionDef):
            exercise = graded_exercise(node)
            if exercise is None:
                grader.oracles.append(node.name)
                continue
            grader.tests.setdefault(exercise, []).append(node.name)
            if "rng" in {part.arg for part in node.args.args}:
                grader.drawn.add(exercise)
    functions = package_functions()
    for part in ast.walk(tree):
        match part:
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name in modules:
                if attr in functions.get(modules[name], ()):
                    grader.package.append(f"{modules[name]}.{attr}")
            case ast.Call(func=ast.Name(id="expect"), args=[_, ast.Constant(value=str(key))]):
                fields = {word.arg for word in part.keywords if word.arg}
                fields |= {"*"} if any(word.arg is None for word in part.keywords) else set()
                grader.said.append((key, fields, part.lineno))
    return grader


def graded_exercise(test: ast.FunctionDef) -> str | None:
    """The id in a test's @exercise("id")."""
    for decorator in test.decorator_list:
        match decorator:
            case ast.Call(func=ast.Name(id="exercise"), args=[ast.Constant(value=str(name))]):
                return name
    return None


def static_findings(lab: Lab, grader: Grader) -> Iterator[str]:
    """What is wrong without running anything: tests, messages, files of answers, checks."""
    path = lab.folder / GRADER
    for name in grader.tests.keys() - lab.exercises.keys():
        yield say("author.test_of_nothing", path=path, exercise=name)
    for key, given, line in grader.said:
        if key not in lab.messages:
            yield say("author.no_message", where=f"{path}:{line}", message=key)
            continue
        wanted = fields_of(lab.messages[key]["en"]) or set()
        if "*" not in given and not wanted <= given:
            missing = ", ".join(sorted(wanted - given))
            yield say("author.message_fields", where=f"{path}:{line}", message=key, missing=missing)
    for key in lab.messages.keys() - {said for said, _, _ in grader.said}:
        yield say("author.unused_message", where=f"{lab.name} lab.toml", message=key)
    calls = "\n".join(cell.en for cell in lab.cells if cell.kind == "code" and not cell.exercise)
    for exercise in lab.exercises.values():
        where = f"{lab.name} {exercise.id}"
        if exercise.id not in grader.tests:
            yield say("author.no_test", where=where)
        if f'check("{exercise.id}")' not in calls:
            yield say("author.no_check", where=f"{lab.folder / SOURCE}:{exercise.line}")
        files = {
            path.name: path.read_text("utf-8")
            for path in sorted((lab.folder / MUTANTS / exercise.id).glob("*.py"))
        }
        for kind in ("right", "wrong"):
            if not any(name.startswith(f"{kind}-") for name in files):
                yield say(f"author.no_{kind}", where=where, folder=f"{MUTANTS}/{exercise.id}")
        shapes = {shape(exercise.solution): SOURCE}
        for name, text in files.items():
            if name.startswith("right-"):
                same = shapes.setdefault(shape(text), name)
                if same != name:
                    yield say("author.same_structure", where=where, answer=name, other=same)


def shape(cell: str) -> str:
    """A cell's structure: its syntax tree without names, comments, docstrings and annotations."""
    tree = ast.parse(cell)
    for node in ast.walk(tree):
        for name in ("id", "arg", "name", "attr"):
            if isinstance(getattr(node, name, None), str) and not isinstance(node, ast.Attribute):
                setattr(node, name, "_")
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
            if ast.get_docstring(node):
                del node.body[0]
    return ast.dump(tree)


def built_findings(lab: Lab) -> Iterator[str]:
    """The notebooks are what the source builds, valid for nbformat, and jupytext reads the source
    as we do.
    """
    import jupytext
    import nbformat

    from x1.course.cells import raw_cells

    for path in build.outdated(lab):
        yield say("author.not_built", path=path, number=lab.number)
    for lang in ("en", "es"):
        nbformat.validate(build.notebook(lab, lang))
    path = lab.folder / SOURCE
    theirs = [
        (cell.cell_type, cell.metadata.get("lang"), cell.metadata.get("exercise"), cell.source)
        for cell in jupytext.read(path).cells
    ]
    for ours, other in zip(raw_cells(path), theirs, strict=False):
        if ours[:4] != other:
            yield say("author.read_differently", where=f"{path}:{ours[4]}")


class Equivalents:
    """The mutations of one exercise that change nothing, each with its reason, and their use."""

    def __init__(self, lab: Lab, exercise: str) -> None:
        self.path = lab.folder / MUTANTS / EQUIVALENT
        self.listed: dict[tuple[str, str], bool] = {}
        raw = tomllib.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}
        for entry in raw.get("equivalent", []):
            if set(entry) != {"exercise", "was", "now", "reason"} or not entry["reason"].strip():
                raise UserError("author.equivalent_entry", path=self.path, entry=entry)
            if entry["exercise"] == exercise:
                self.listed[entry["was"], entry["now"]] = False

    def cover(self, mutation: mutate.Mutation) -> bool:
        key = (mutation.was, mutation.now)
        if key in self.listed:
            self.listed[key] = True
        return key in self.listed

    def stale(self) -> Iterator[str]:
        for (was, now), used in self.listed.items():
            if not used:
                yield say("author.stale_equivalent", path=self.path, was=was, now=now)


def check_parity(root: Path, only: str | None = None) -> list[str]:
    """Every way in which the two languages have drifted, in all files or those of one stage.

    Raises UserError as `parity.all_pairs` does.
    """
    pairs = list(parity.all_pairs(root, only))
    lock = parity.read_lock(root)
    found = [said for pair in pairs for said in parity.differences(pair)]
    drifted = parity.drifted(pairs, lock)
    if not drifted and not parity.is_locked(root, pairs, only):
        found.append(say("author.lock_outdated", lock=parity.LOCK))
    return found + drifted


def check_labs(labs: list[Lab], seeds: int = SEEDS, report: Report = lambda _: None) -> list[str]:
    """The findings about these labs, two labs at a time."""
    with ThreadPoolExecutor(2) as pool:
        checks = [pool.submit(check_lab, lab, seeds, report) for lab in labs]
        return [said for check in checks for said in check.result()]
