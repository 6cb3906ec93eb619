"""`x1 author check` on labs broken in every way it is there to notice."""

import shutil
from pathlib import Path

import pytest

from x1.course import author, build, parity, prove
from x1.course.source import lab_folders, read_lab
from x1.text import UserError

LABS = Path(__file__).parents[1] / "labs"

REFERENCE = """\
def NAME(achieved: float, peak: float, scale: float = 1.0) -> float:
    # solution
    if peak <= 0:
        raise ValueError(peak)
    return scale * achieved / peak
    # end solution
"""
RIGHT = """\
def NAME(achieved, peak, scale=1.0):
    if not peak > 0:
        raise ValueError(peak)
    share = achieved / peak
    return share * scale
"""
WRONG = """\
def NAME(achieved, peak, scale=1.0):
    if peak <= 0:
        raise ValueError(peak)
    return scale * peak / max(achieved, 1e-9)
"""
TESTS = """\
@exercise("NAME")
def test_NAME_is_the_ratio(NAME, rng):
    for peak, scale in ((float(rng.uniform(0.1, 0.9)), 1.0), (float(rng.uniform(2, 9)), 100.0)):
        for achieved in (0.0, peak / 3, peak):
            wanted = oracle(achieved, peak) * scale
            expect(NAME(achieved, peak, scale) == approx(wanted), "ratio", peak=peak)
    expect(NAME(1.0, 2.0) == 0.5, "ratio", peak=2.0)


@exercise("NAME")
@mark.parametrize("peak", [0.0, -1.0])
def test_NAME_refuses(NAME, peak):
    try:
        NAME(1.0, peak)
    except ValueError:
        return
    expect(False, "ratio", peak=peak)
"""
HEAD = """\
from pytest import approx, mark

from x1.course.grading import exercise, expect


def oracle(achieved, peak):
    return achieved / peak
"""

EXAMPLE_ONLY = """\
@exercise("NAME")
def test_NAME_is_the_ratio(NAME):
    expect(NAME(1.0, 2.0) == 0.5, "ratio", peak=2.0)
    try:
        NAME(1.0, 0.0)
    except ValueError:
        return
    expect(False, "ratio", peak=0.0)
"""
DEFAULT_ONLY = """\
@exercise("NAME")
def test_NAME_is_the_ratio(NAME, rng):
    for _ in range(5):
        peak = float(rng.uniform(0.1, 10))
        expect(NAME(1.0, peak) == approx(1 / peak), "ratio", peak=peak)
    try:
        NAME(1.0, 0.0)
    except ValueError:
        return
    expect(False, "ratio", peak=0.0)
"""
ANY_FAULT = TESTS.replace("except ValueError", "except Exception")
RARELY = TESTS.replace(
    "    for peak, scale in",
    '    expect(rng.uniform() > 0.3, "ratio", peak=0.0)\n    for peak, scale in',
)
SOMETIMES = TESTS.replace(
    "    for peak, scale in", "    if rng.uniform() < 0.7:\n        return\n    for peak, scale in"
)
assert len({TESTS, ANY_FAULT, RARELY, SOMETIMES}) == 4
SIGNED = """\
def signed(value: float, digits: int = 3) -> str:
    # solution
    return f"{value:+.{digits}f}".replace("-", chr(8722))
    # end solution
"""
SIGNED_TESTS = """\
@exercise("signed")
def test_signed_is_the_ratio(signed, rng):
    for digits in (0, 2, 3):
        value = float(rng.normal())
        wanted = ("+" if value > 0 else chr(8722)) + f"{abs(value):.{digits}f}"
        expect(signed(value, digits) == wanted, "ratio", peak=value)
    expect(signed(1.0) == "+1.000", "ratio", peak=1.0)
"""

# What differs from a sound exercise, by its id: its text in lab.py, in the grader, in lab.toml, in
# mutants/, and whether the notebook checks it.
EXERCISES = {
    "sound": {},
    "unfinished": {"tests": ANY_FAULT},
    "not_right": {"reference": REFERENCE.replace("scale * achieved", "2 * scale * achieved")},
    "misconception": {"wrong": RIGHT.replace("share * scale", "scale * share")},
    "other_test": {"caught_by": "test_other_test_refuses"},
    "copied": {"right": RIGHT},
    "renamed": {
        "right": REFERENCE.replace("achieved", "a").replace("peak", "p").replace("scale", "s")
        .replace("    # solution\n", "").replace("    # end solution\n", "")
    },
    "no_answers": {"right": None, "wrong": None},
    "one_example": {"tests": EXAMPLE_ONLY},
    "default": {"tests": DEFAULT_ONLY},
    "tolerant": {"tests": TESTS.replace("rng.uniform(0.1, 0.9)", "rng.uniform(1.1, 2)")},
    "signed": {
        "reference": SIGNED,
        "tests": SIGNED_TESTS,
        "may_use": '["x1.markup"]',
        "right": 'def signed(value, digits=3):\n    sign = "+" if value >= 0 else chr(8722)\n'
        '    return sign + format(abs(value), f".{digits}f")\n',
        "wrong": 'def signed(value, digits=3):\n    return f"{value:+.{digits}f}"\n',
    },
    "unlucky": {"tests": RARELY},
    "lucky": {"tests": SOMETIMES},
    "leaning": {
        "reference": REFERENCE.replace("scale * achieved / peak", "scale * sound(achieved, peak)")
    },
    "unchecked": {"check": False},
    "untested": {"tests": ""},
}  # fmt: skip

EQUIVALENT = """\
[[equivalent]]
exercise = "tolerant"
was = "if peak <= 0:"
now = "if peak <= 1:"
reason = "no card is that slow"

[[equivalent]]
exercise = "sound"
was = "if peak <= 0:"
now = "if peak <= 7:"
reason = "of an earlier reference"
"""


def write(labs, exercises, extra_tests="", equivalent=EQUIVALENT):
    """labs/90-broken, built; an exercise of `exercises` differs from a sound one as it says."""
    folder = labs / "90-broken"
    folder.mkdir(parents=True)
    table = [
        'number = 90\nslug = "broken"\nminutes = 1\ncost_usd = 0',
        '[title]\nen = "Broken"\nes = "Roto"\n[hardware]\nen = "any"\nes = "cualquiera"',
        '[messages.ratio]\nen = "{peak} is wrong."\nes = "{peak} no."',
        '[messages.unsaid]\nen = "Never."\nes = "Nunca."',
    ]
    cells = ["# %%\nfrom x1.course import check\n"]
    tests = [HEAD]
    for name, spec in exercises.items():
        table.append(
            f"[exercises.{name}]\nmay_use = {spec.get('may_use', '[]')}\n"
            'hints.en = ["Divide."]\nhints.es = ["Divide."]'
        )
        reference = spec.get("reference", REFERENCE).replace("NAME", name)
        cells.append(f'# %% exercise="{name}"\n# exercise: {name}\n{reference}')
        if spec.get("check", True):
            cells.append(f'# %%\ncheck("{name}")\n')
        tests.append(spec.get("tests", TESTS).replace("NAME", name))
        answers = folder / "mutants" / name
        answers.mkdir(parents=True)
        right, wrong = spec.get("right", RIGHT), spec.get("wrong", WRONG)
        caught_by = spec.get("caught_by", f"test_{name}_is_the_ratio")
        if right:
            text = f"# exercise: {name}\n{right}".replace("NAME", name)
            (answers / "right-other.py").write_text(text)
        if wrong:
            text = f"# caught by: {caught_by}\n# exercise: {name}\n{wrong}".replace("NAME", name)
            (answers / "wrong-upside-down.py").write_text(text)
    (folder / "lab.toml").write_text("\n".join(table) + "\n")
    (folder / "lab.py").write_text("\n\n".join(cells))
    (folder / "test_lab.py").write_text("\n\n".join([*tests, extra_tests]))
    (folder / "mutants" / "equivalent.toml").write_text(equivalent)
    build.build(read_lab(folder))
    return folder


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    """What the check finds in the lab that has each of the faults above, and which it told of."""
    extra = (
        '@exercise("gone")\ndef test_gone(gone):\n    expect(gone(), "nothing")\n\n\n'
        '@exercise("sound")\ndef test_fields(sound):\n    expect(sound(1, 1) == 1, "ratio")\n'
    )
    exercises = {name: spec for name, spec in EXERCISES.items() if name != "gone"}
    folder = write(tmp_path_factory.mktemp("broken") / "labs", exercises, extra)
    (folder / "mutants" / "nobody").mkdir()
    (folder / "lab.es.ipynb").write_text("{}")
    # A test of an exercise that does not exist has no fixture: pytest only says so when it runs.
    told: list[str] = []
    found = prove.check_lab(read_lab(folder), seeds=21, report=told.append)
    assert len(told) == len(exercises)
    return found


def about(findings, exercise):
    return [said.removeprefix(f"90-broken {exercise}: ") for said in findings
            if said.startswith(f"90-broken {exercise}: ")]  # fmt: skip


def test_a_sound_exercise_gives_no_finding_but_the_planted_ones(findings):
    assert about(findings, "sound") == []
    assert about(findings, "copied") == []


@pytest.mark.parametrize(
    ("exercise", "words"),
    [
        ("unfinished", "test_unfinished_refuses passes although nothing was written"),
        ("not_right", "the reference must be passed and is wrong"),
        ("misconception", "wrong-upside-down.py must be wrong and is passed"),
        ("other_test", "should be caught by test_other_test_refuses, but what fails is: "
                       "test_other_test_is_the_ratio"),
        ("renamed", "right-other.py has the structure of lab.py"),
        ("no_answers", "has no right-NAME.py"),
        ("no_answers", "has no wrong-NAME.py"),
        ("one_example", "returns what the first case returns must be wrong and is passed"),
        ("one_example", "ignores achieved after the first case must be wrong and is passed"),
        ("default", "ignores scale after the first case must be wrong and is passed"),
        ("signed", "calls x1.markup.signed must be wrong and is passed"),
        ("unlucky", "the reference must be passed and is wrong"),
        ("lucky", "wrong-upside-down.py must be wrong and is passed"),
        ("leaning", "the reference must be passed and is broken"),
        ("untested", "no test grades this exercise"),
    ],
)  # fmt: skip
def test_a_broken_exercise_is_found_out(findings, exercise, words):
    assert any(words in said for said in about(findings, exercise)), about(findings, exercise)


def test_bad_luck_is_found_by_the_seeds(findings):
    assert any("with seed " in said for said in about(findings, "unlucky"))
    assert any("with seed " in said for said in about(findings, "lucky"))


def test_a_mutation_survives_until_it_is_listed(findings, tmp_path):
    assert about(findings, "tolerant") == []
    only = {"tolerant": EXERCISES["tolerant"]}
    lab = read_lab(write(tmp_path / "labs", only, equivalent=""))
    found = [said for said in prove.check_lab(lab, seeds=1) if "tolerant" in said]
    (said,) = found
    assert "if peak <= 0: → if peak <= 1: must be wrong and is passed" in said


@pytest.mark.parametrize(
    "words",
    [
        "excuses nothing any more: if peak <= 0: → if peak <= 7:",
        "mutants/nobody belongs to no exercise",
        "lab.es.ipynb is not what its source builds: run x1 author build 90",
        "tests 'gone', which is no exercise",
        "lab.toml has no message 'nothing'",
        "the message 'ratio' is not given its peak",
        "no test says the message 'unsaid'",
        "no cell of the notebook checks this exercise",
    ],
)
def test_what_needs_no_run_is_found_too(findings, words):
    assert sum(words in said for said in findings) == 1, findings


def test_a_misnamed_answer_is_refused(tmp_path):
    folder = write(tmp_path / "labs", {"sound": {}})
    path = folder / "mutants" / "sound" / "wrong-upside-down.py"
    path.write_text(path.read_text().split("\n", 1)[1])
    with pytest.raises(UserError, match="with the first line '# caught by: TEST'"):
        prove.check_lab(read_lab(folder), seeds=1)
    path.rename(path.with_name("other.py"))
    with pytest.raises(UserError, match=r"other\.py: an answer is called right-NAME"):
        prove.check_lab(read_lab(folder), seeds=1)


def test_an_excuse_needs_a_reason(tmp_path):
    unexplained = EQUIVALENT.replace("no card is that slow", " ")
    lab = read_lab(write(tmp_path / "labs", {"tolerant": {}}, equivalent=unexplained))
    with pytest.raises(UserError, match="an entry has exercise, was, now and a reason"):
        prove.Equivalents(lab, "tolerant")


# ---- The commands


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of one sound lab and one page, built and locked, as the current folder."""
    folder = write(tmp_path / "labs", {"sound": {}}, equivalent="")
    table = folder / "lab.toml"
    table.write_text(table.read_text().replace(
        '[messages.unsaid]\nen = "Never."\nes = "Nunca."\n', ""))  # fmt: skip
    (tmp_path / "README.md").write_text("# X1\n\nIt costs $5.\n")
    (tmp_path / "README.es.md").write_text("# X1\n\nCuesta $5.\n")
    monkeypatch.chdir(tmp_path)
    author.run_build_command(None)
    return tmp_path


def test_check_says_what_it_found_and_exits_with_it(repository, capsys):
    assert author.run_check_command(None, 2, None) == 0
    assert capsys.readouterr().out.endswith("The labs hold, and the two languages agree.\n")
    (repository / "README.md").write_text("# X1\n\nIt now costs $5.\n")
    (repository / "labs/90-broken/lab.ipynb").unlink()
    assert author.run_check_command(None, 1, None) == 1
    said = capsys.readouterr().out
    assert "README.md#x1: the English (" in said and "lab.ipynb is not what" in said
    assert said.endswith("2 findings.\n")


def test_build_writes_what_is_missing_and_acknowledge_what_is_told(repository, capsys):
    capsys.readouterr()
    author.run_build_command(90)
    assert "The notebooks are what their sources build" in capsys.readouterr().out
    (repository / "labs/90-broken/lab.ipynb").unlink()
    (repository / "README.md").write_text("# X1\n\nIt now costs $5.\n")
    lock = (repository / parity.LOCK).read_text()
    author.run_build_command(None)
    said = capsys.readouterr().out
    assert "Written: labs/90-broken/lab.ipynb" in said and "README.md#x1: the English" in said
    assert (repository / parity.LOCK).read_text() == lock
    assert author.run_check_command(None, 1, "README.md#x1") == 0
    assert capsys.readouterr().out == "Acknowledged: README.md#x1\n"
    assert prove.check_parity(repository) == []


# ---- The labs there are


@pytest.mark.parametrize("folder", lab_folders(LABS), ids=lambda path: path.name)
def test_a_lab_that_is_broken_on_purpose_is_caught(folder, tmp_path):
    """Its first exercise graded by nothing, its notebook edited: not the check, but its reach."""
    copy = tmp_path / "labs" / folder.name
    shutil.copytree(folder, copy)
    (copy / "lab.ipynb").write_text("{}")
    tests = copy / "test_lab.py"
    name = next(iter(read_lab(copy).exercises))
    tests.write_text(tests.read_text("utf-8").replace(f'@exercise("{name}")', ""), "utf-8")
    lab = read_lab(copy)
    found = [*prove.static_findings(lab, prove.read_grader(lab)), *prove.built_findings(lab)]
    assert any("no test grades this exercise" in said for said in found)
    assert any("lab.ipynb is not what its source builds" in said for said in found)
