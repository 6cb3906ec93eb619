"""The learner's copy of a lab: answers are never lost, whatever was done to the notebook."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from x1 import cli, folder
from x1.course import board, learn, load, source, work
from x1.text import LANGUAGES, UserError, catalogue, say, set_language

X1 = Path(sys.executable).with_name("x1")
NOTEBOOK = Path("work/02-toy/lab.ipynb")
MFU = "# exercise: mfu\ndef mfu(a, b):\n    return a / b"
WRONG = "# exercise: mfu\ndef mfu(a, b):\n    return a * b"
SQUARE = "# exercise: mean_square\ndef mean_square(v):\n    return float(np.mean(np.square(v)))"
PREDICT = 'predict("loss", value=10.8, plus_or_minus=0.3)'


@pytest.fixture
def x1(toy, monkeypatch, capsys):
    """x1("grade", 2): the command in this process; (exit code, what it said on both streams)."""
    monkeypatch.delenv("X1_LANG")

    def command(*arguments, lang=None):
        set_language(None)
        words = ["x1", *map(str, arguments), *(["--lang", lang] if lang else [])]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out + err

    monkeypatch.setenv("LANG", "en_GB.UTF-8")
    monkeypatch.setattr("locale.getlocale", lambda: ("en_GB", "UTF-8"))
    return command


def read(path=NOTEBOOK):
    return json.loads(Path(path).read_text("utf-8"))


def sources(path=NOTEBOOK):
    return [load.source_of(cell) for cell in read(path)["cells"]]


def fill(*answers, path=NOTEBOOK):
    """Put answers into their cells, as a learner types them."""
    notebook = read(path)
    for answer in answers:
        key = work.answer_key(answer)
        for cell in notebook["cells"]:
            if work.answer_key(load.source_of(cell)) == key:
                cell["source"] = answer
    Path(path).write_text(json.dumps(notebook))


def add(*cells, path=NOTEBOOK, at=1):
    notebook = read(path)
    made = [work.prose(c[3:]) if c.startswith("md:") else work.code(c) for c in cells]
    notebook["cells"][at:at] = made
    Path(path).write_text(json.dumps(notebook))


def logged(*kinds):
    lines = folder.read_lines(Path("work/02-toy/log.jsonl"))
    return [line for line in lines if not kinds or line["event"] in kinds]


# ---- Start


@pytest.mark.parametrize("code", LANGUAGES)
def test_start_writes_the_notebook_and_says_how_to_open_it(x1, code):
    status, said = x1("start", 2, lang=code)
    assert status == 0 and say("learn.made", code, path=NOTEBOOK) in said
    assert f"make lab LAB_ARGS={NOTEBOOK}" in said
    nbformat.validate(read())
    assert read()["metadata"]["kernelspec"]["name"] == "x1"
    assert catalogue(code)["work.your_cells"] not in sources()
    title = {"en": "# 02 · A toy", "es": "# 02 · Un juguete"}[code]
    assert sources()[0].startswith(title)


def test_start_again_changes_nothing(x1):
    x1("start", 2)
    fill(MFU)
    before = NOTEBOOK.read_bytes()
    status, said = x1("start", 2)
    assert status == 0 and say("learn.is_there", "en", path=NOTEBOOK) in said
    assert NOTEBOOK.read_bytes() == before and not Path("work/02-toy/backups").exists()


def test_another_language_puts_every_answer_back_in_place(x1):
    x1("start", 2)
    fill(MFU, SQUARE, PREDICT)
    before = NOTEBOOK.read_bytes()
    status, said = x1("start", 2, lang="es")
    assert status == 0 and say("learn.put_back", "es", count=3) in said
    fresh = [load.source_of(cell) for cell in work.built(lab(), "es")["cells"]]
    keys = [work.answer_key(text) for text in fresh]
    assert [work.answer_key(text) for text in sources()] == keys
    answers = {work.answer_key(text): text for text in (MFU, SQUARE, PREDICT)}
    assert sources() == [answers.get(key, text) for key, text in zip(keys, fresh, strict=True)]
    (backup,) = Path("work/02-toy/backups").iterdir()
    assert backup.read_bytes() == before
    assert say("learn.backup", "es", path=backup) in said
    # From now on the copy speaks Spanish, unless somebody says otherwise.
    assert catalogue("es")["learn.verdict.passed"] in x1("grade", 2)[1]
    assert catalogue("en")["learn.verdict.passed"] in x1("grade", 2, lang="en")[1]


def lab():
    return source.read_lab(source.find_lab(2))


def test_the_learners_own_cells_come_along_once(x1):
    x1("start", 2)
    fill(MFU)
    add("md:# My notes", "x = mfu(1, 2)\nx", "mfu(1, 2)", "   ")
    for language in ("es", "en", "es"):
        x1("start", 2, lang=language)
    x1("start", 2, "--update")
    extra = sources()[len(work.built(lab(), "es")["cells"]) :]
    heading = catalogue("es")["work.your_cells"]
    assert extra == [heading, "# My notes", "x = mfu(1, 2)\nx", "mfu(1, 2)"]
    assert sources().count(MFU) == 1
    nbformat.validate(read())


def test_an_update_takes_the_new_text_and_keeps_the_answers(x1, toy):
    x1("start", 2)
    fill(MFU)
    text = (toy / "lab.py").read_text()
    text = text.replace("# Some words.", "# Other words.").replace("# Unas", "# Otras")
    text = text.replace(
        "    # solution\n    return flops", "    # solution\n    x = 1\n    return flops"
    )
    (toy / "lab.py").write_text(text)
    status, said = x1("start", 2)
    assert say("learn.outdated", "en", number=2) in said and "Some words." in sources()
    assert say("learn.outdated", "en", number=2) in x1("status")[1]
    status, said = x1("start", 2, "--update")
    assert status == 0 and "Other words." in sources() and "Some words." not in sources()
    assert MFU in sources() and catalogue("en")["work.your_cells"] not in sources()
    assert say("learn.outdated", "en", number=2) not in x1("start", 2)[1]


def test_a_changed_cell_of_ours_is_kept_too(x1):
    x1("start", 2)
    notebook = read()
    for cell in notebook["cells"]:
        if load.source_of(cell) == "Some words.":
            cell["source"] = "Some words, and mine."
    NOTEBOOK.write_text(json.dumps(notebook))
    x1("start", 2, "--update")
    assert "Some words." in sources() and sources()[-1] == "Some words, and mine."


def as_vs_code_saves_it(path=NOTEBOOK):
    """No cell ids, other metadata, sources as lists, four spaces, no last newline."""
    notebook = read(path)
    for cell in notebook["cells"]:
        cell.pop("id", None)
        language = "python" if cell["cell_type"] == "code" else "markdown"
        cell["metadata"] = {"vscode": {"languageId": language}}
        cell["source"] = load.source_of(cell).splitlines(keepends=True)
    notebook["metadata"] = {"kernelspec": {"display_name": ".venv", "language": "python",
                                           "name": "python3"}, "orig_nbformat": 4}  # fmt: skip
    notebook["nbformat_minor"] = 2
    Path(path).write_text(json.dumps(notebook, indent=4))


def test_a_notebook_as_vs_code_saves_it_is_graded_and_carried_over(x1):
    x1("start", 2)
    fill(MFU, SQUARE)
    as_vs_code_saves_it()
    assert x1("grade", 2)[0] == 0
    x1("start", 2, lang="es")
    assert MFU in sources() and SQUARE in sources()
    assert catalogue("es")["work.your_cells"] not in sources()


def test_answers_are_found_in_cells_that_were_moved_and_split(x1):
    x1("start", 2)
    fill(MFU, SQUARE)
    notebook = read()
    notebook["cells"].reverse()
    NOTEBOOK.write_text(json.dumps(notebook))
    add("y = 1", "import math", "md:# more", at=4)
    code, said = x1("grade", 2)
    assert code == 0, said
    x1("start", 2, "--update")
    assert x1("grade", 2)[0] == 0
    assert sources()[-3:] == ["y = 1", "import math", "# more"]


def test_a_doubled_answer_is_not_dropped(x1):
    x1("start", 2)
    fill(MFU)
    add(WRONG, at=20)
    x1("start", 2, "--update")
    assert sources().count(MFU) == 1 and sources()[-1] == WRONG


# ---- The committed notebook, other files


def test_work_in_the_committed_notebook_is_noticed_graded_and_carried_over(x1, toy):
    committed = Path("labs/02-toy/lab.ipynb")
    x1("author", "build", 2)
    assert x1("grade", 2)[0] == 1 and not logged("start")
    fill(MFU, SQUARE, path=committed)
    code, said = x1("grade", 2)
    assert code == 0 and say("learn.edited", "en", path=committed, number=2) in said
    code, said = x1("start", 2, "--from", committed)
    assert code == 0 and say("learn.put_back", "en", count=2) in said
    assert MFU in sources() and x1("grade", 2)[0] == 0


def test_from_a_file_that_is_no_notebook_changes_nothing(x1):
    x1("start", 2)
    before = {p: p.read_bytes() for p in Path("work").rglob("*") if p.is_file()}
    Path("bad.ipynb").write_text('{"cells": [')
    for name, key in (("bad.ipynb", "load.not_json"), ("none.ipynb", "folder.missing")):
        code, said = x1("start", 2, "--from", name)
        values = {"path": name} | ({"line": 1} if key == "load.not_json" else {})
        assert code == 2 and said == say(key, "en", **values) + "\n"
    assert {p: p.read_bytes() for p in Path("work").rglob("*") if p.is_file()} == before


def test_a_broken_copy_is_not_overwritten(x1):
    x1("start", 2)
    NOTEBOOK.write_text('{"cells":\n [')
    for command in (("start", 2, "--update"), ("grade", 2)):
        code, said = x1(*command)
        assert (
            code == 2
            and said == say("load.not_json", "en", path=NOTEBOOK.absolute(), line=2) + "\n"
        )
    assert NOTEBOOK.read_text() == '{"cells":\n ['
    assert say("load.not_json", "en", path=NOTEBOOK.absolute(), line=2) in x1("status")[1]


def test_there_is_no_such_lab(x1):
    code, said = x1("start", 7)
    assert code == 2 and said == say("author.no_lab", "en", number=7, known="2") + "\n"


def test_reset_begins_again_and_keeps_the_old_notebook(x1):
    assert x1("reset", 2)[0] == 2
    x1("start", 2)
    fill(MFU)
    x1("grade", 2)
    x1("solution", 2, "mean_square", "--give-up")
    before = NOTEBOOK.read_bytes()
    code, said = x1("reset", 2)
    assert code == 0 and MFU not in sources()
    (backup,) = Path("work/02-toy/backups").iterdir()
    assert backup.read_bytes() == before and str(backup) in said
    copy = work.open_copy(2)
    assert work.history(copy, "grade") == []
    assert [line["exercise"] for line in work.history(copy, "solution")] == ["mean_square"]


# ---- Grade


def test_untouched_exercises_are_not_started_with_the_file_and_its_time(x1, no_child):
    x1("start", 2)
    code, said = x1("grade", 2)
    saved = learn.saved_at(NOTEBOOK)
    assert code == 1
    for name in ("mfu", "mean_square"):
        line = (
            f"· {name}: {catalogue('en')['learn.verdict.not_started']} ({NOTEBOOK}, saved {saved})"
        )
        assert line in said.splitlines()


@pytest.fixture
def no_child(monkeypatch):
    """Starting a process to grade in is a failure."""

    def child(job, forks):
        raise AssertionError("a grading process was started")

    monkeypatch.setattr("x1.course.grade.child", child)


def test_grades_are_put_on_record_with_what_was_graded(x1):
    x1("start", 2)
    fill(WRONG, SQUARE)
    code, said = x1("grade", 2)
    assert code == 1 and say("learn.next", "en", number=2, exercise="mfu") in said
    wrong, right = logged("grade")
    assert (wrong["verdict"], wrong["test"]) == ("wrong", "test_half")
    assert (right["verdict"], right["digest"]) == ("passed", load.digest(SQUARE))
    assert wrong["sentence"] in said
    assert f"seed {wrong['seed']}" in said


def test_a_broken_cell_is_told_by_cell_and_line(x1):
    x1("start", 2)
    fill("# exercise: mfu\ndef mfu(a, b):\n    return (")
    place = 1 + next(n for n, text in enumerate(sources()) if "# exercise: mfu" in text)
    code, said = x1("grade", 2)
    assert code == 1 and f"Cell {place}, line 3" in said
    assert catalogue("en")["learn.verdict.broken"] in said


def test_pytest_on_the_lab_says_the_same(x1, toy):
    root = Path(__file__).parents[1]
    Path("labs/conftest.py").write_text((root / "labs/conftest.py").read_text())
    x1("start", 2)
    fill(WRONG, SQUARE)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "labs/02-toy", "-p", "no:cacheprovider"],
        env=os.environ | {"X1_LANG": "en", "X1_GRADE_SEED": "3"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (line,) = [one for one in x1_graded(x1) if "FLOP/s" in one]
    assert line in done.stdout and "2 failed, 2 passed" in done.stdout
    assert "Traceback" not in done.stdout and "Error" not in done.stdout


def x1_graded(x1):
    os.environ["X1_GRADE_SEED"] = "3"
    try:
        return x1("grade", 2)[1].splitlines()
    finally:
        del os.environ["X1_GRADE_SEED"]


def test_watching_grades_what_changed_and_ends_when_all_passed(x1):
    x1("start", 2)
    process = subprocess.Popen(
        [X1, "grade", "2", "--watch"], env=os.environ | {"X1_LANG": "en", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = []
    try:
        for answers in ((WRONG,), (MFU, SQUARE)):
            while not any("Ctrl-C" in line for line in said[-1:]):
                said.append(process.stdout.readline())
                assert said[-1], said
            fill(*answers)
            said.append(process.stdout.readline())
        rest = process.communicate(timeout=120)[0]
    finally:
        process.kill()
    text = "".join(said) + rest
    assert process.returncode == 0
    verdicts = re.findall(r"^[✓✗·] (\w+): (.+?)(?: \(.*)?$", text, re.MULTILINE)
    assert verdicts == [
        ("mfu", "not started"), ("mean_square", "not started"), ("mfu", "wrong"),
        ("mfu", "passed"), ("mean_square", "passed"),
    ]  # fmt: skip


# ---- Hints and solutions


@pytest.mark.parametrize("code", LANGUAGES)
def test_hints_come_one_by_one(x1, code):
    x1("start", 2, lang=code)
    hints = lab().exercises["mfu"].hints[code]
    first = x1("hint", 2)[1]
    assert hints[0] in first and hints[1] not in first
    second = x1("hint", 2, "mfu")[1]
    assert hints[0] in second and hints[1] in second
    assert say("learn.no_more_hints", code, number=2, exercise="mfu") in second
    assert x1("hint", 2)[1] == second
    assert [line["number"] for line in logged("hint")] == [1, 2]
    code, said = x1("hint", 2, "mfuu")
    assert code == 2 and "mfu" in said


def test_a_hint_is_for_the_first_exercise_not_passed(x1):
    x1("start", 2)
    fill(MFU)
    x1("grade", 2)
    assert lab().exercises["mean_square"].hints["en"][0] in x1("hint", 2)[1]


def test_a_solution_shows_after_a_pass_or_on_giving_up_and_that_is_on_record(x1):
    x1("start", 2)
    code, said = x1("solution", 2)
    assert code == 2 and "return" not in said
    fill(MFU)
    x1("grade", 2)
    code, said = x1("solution", 2)
    solutions = {name: one.solution for name, one in lab().exercises.items()}
    assert code == 0 and solutions["mfu"] in said and solutions["mean_square"] not in said
    assert say("learn.withheld", "en", exercises="mean_square") in said
    code, said = x1("solution", 2, "mean_square", "--give-up")
    assert code == 0 and solutions["mean_square"] in said and solutions["mfu"] not in said
    assert x1("solution", 2, "mean_square")[0] == 0
    on_record = [(line["exercise"], line["after"]) for line in logged("solution")]
    assert on_record == [("mfu", "pass"), ("mean_square", "give_up")]
    fill(SQUARE)
    x1("grade", 2)
    assert "✓✓*" in x1("status")[1]


# ---- Status


def row(said):
    return [line.split() for line in said.splitlines() if line.startswith("02")][-1]


def test_status_knows_what_was_graded_and_what_was_not(x1, no_child):
    assert say("board.start", "en", number=2) in x1("status")[1]
    x1("start", 2)
    assert row(x1("status")[1])[4:] == ["··", "0/2", "0/1"]
    fill(MFU)
    said = x1("status")[1]
    assert row(said)[4:] == ["?·", "0/2", "0/1"]
    assert say("board.stale", "en", number=2, exercises="mfu") in said


def test_a_verdict_counts_until_the_cell_or_the_tests_change(x1, toy):
    x1("start", 2)
    fill(MFU, "# exercise: mean_square\ndef mean_square(v):\n    return (")
    x1("grade", 2)
    assert row(x1("status")[1])[4:] == ["✓!", "1/2", "0/1"]
    fill(MFU.replace("return", "# my reason\n    return"), SQUARE)
    assert row(x1("status")[1])[4:] == ["✓?", "1/2", "0/1"]
    assert row(x1("status", "--regrade")[1])[4:] == ["✓✓", "2/2", "0/1"]
    assert [line["exercise"] for line in logged("grade")] == ["mfu", "mean_square", "mean_square"]
    with (toy / "test_lab.py").open("a") as tests:
        tests.write("\n# another check\n")
    assert row(x1("status")[1])[4:] == ["??", "0/2", "0/1"]


def test_status_imports_neither_torch_nor_pytest(x1, tmp_path):
    x1("start", 2)
    fill(MFU)
    code = (
        "import sys; sys.argv = ['x1', 'status']\nfrom x1.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'pytest', 'nbformat', 'IPython'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_a_torn_line_of_the_log_does_no_harm(x1):
    x1("start", 2)
    fill(MFU, SQUARE)
    x1("grade", 2)
    with Path("work/02-toy/log.jsonl").open("a") as log:
        log.write('{"event": "gra')
    assert row(x1("status")[1])[4:] == ["✓✓", "2/2", "0/1"]


def test_the_board_speaks_the_language_of_the_last_copy(x1):
    x1("start", 2, lang="es")
    assert catalogue("es")["board.lab"] in x1("status")[1]
    assert catalogue("en")["board.lab"] in x1("status", lang="en")[1]


def test_a_copy_is_found_from_inside_its_folder(x1, monkeypatch):
    x1("start", 2)
    monkeypatch.chdir("work/02-toy")
    assert x1("grade", 2)[0] == 1
    assert work.copy_here().lab.number == 2
    monkeypatch.chdir("..")
    with pytest.raises(UserError):
        work.copy_here()
    assert board.all_copies(source.labs_folder())[0].notebook.is_file()
