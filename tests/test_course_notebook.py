"""What a lab's notebook imports, in the kernel that Jupyter and VS Code start."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from x1 import course, folder
from x1.course import learn, notebook, work
from x1.course.notebook import Stop, predict, predicted, setting
from x1.text import catalogue, say, set_language

MFU = "# exercise: mfu\ndef mfu(a, b):\n    return a / b"
WRONG = "# exercise: mfu\ndef mfu(a, b):\n    return 7.0"


@pytest.fixture
def copy(toy, monkeypatch):
    """A started copy whose folder is the current one, as a kernel has it."""
    copy = work.open_copy(2)
    work.make(copy, "en", None)
    monkeypatch.chdir(copy.path)
    return copy


def run(copy, *texts):
    """Run cells in a kernel; (what each printed, the fault it raised) of each."""
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in texts],
        metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}},
    )
    where = {"metadata": {"path": str(copy.path)}}
    NotebookClient(book, timeout=300, allow_errors=True, resources=where).execute()
    seen = []
    for cell in book.cells:
        printed = "".join(out.get("text", "") for out in cell.outputs)
        faults = ["\n".join(out["traceback"]) for out in cell.outputs if "traceback" in out]
        seen.append((printed, faults[0] if faults else None))
    return seen


def test_a_notebook_from_its_first_cell_to_a_pass(copy):
    seen = run(
        copy,
        "from x1.course import check, label, predict, predicted, setting",
        'predicted("loss")',
        'predict("loss", value=None, plus_or_minus=None)',
        'predict("loss", value=10.8, plus_or_minus=0.3);',
        'predict("loss", value=11, plus_or_minus=1);',
        'print(predicted("loss").value)',
        'check("mfu")',
        WRONG,
        'check("mfu")',
        f'{MFU}\n\ncheck("mfu")',
        "def helper(a, b): return a / b",
        "# exercise: mfu\ndef mfu(a, b): return helper(a, b)",
        'check("mfu")',
        'check("mfuu")',
    )
    printed, faults = zip(*seen, strict=True)
    known = {"id": "loss", "value": "10.8", "plus_or_minus": "0.3"}
    assert faults[0] is None, faults[0]
    assert faults[1] == say("notebook.predict_first", "en", id="loss")
    assert faults[2] == say("notebook.unwritten", "en", id="loss")
    assert printed[3] == say("notebook.predicted", "en", **known) + "\n"
    assert printed[4] == say("notebook.stays", "en", **known) + "\n"
    assert printed[5] == "10.8\n"
    saved = learn.saved_at(copy.notebook)
    assert say("notebook.from_file", "en", path="lab.ipynb", saved=saved) in printed[6]
    assert catalogue("en")["learn.verdict.not_started"] in printed[6]
    assert printed[8].startswith("✗ mfu: wrong\n  At ") and faults[8] is None
    assert printed[9] == "✓ mfu: passed\n"
    assert say("load.elsewhere", "en", name="helper", exercise="mfu", place="[12]", other="[11]") \
        in printed[12]  # fmt: skip
    assert faults[13] == say("learn.unknown_exercise", "en", exercise="mfuu", nearest="mfu")
    assert all("Traceback" not in one for one in printed)
    grades = [line["verdict"] for line in work.history(copy, "grade")]
    assert grades == ["not_started", "wrong", "passed", "broken"]


def test_a_plots_words_are_in_the_copys_language_from_the_first_cell_on(copy, monkeypatch):
    monkeypatch.delenv("X1_LANG", raising=False)
    work.make(copy, "es", copy.notebook)
    ((printed, fault),) = run(copy, 'from x1.course import label\nprint(label("loss"))')
    assert (printed, fault) == ("pérdida\n", None)


def test_the_spanish_notebook_speaks_spanish(copy, monkeypatch):
    set_language(None)
    for name in ("X1_LANG", "LANG", "LC_ALL"):
        monkeypatch.delenv(name, raising=False)
    work.make(copy, "es", copy.notebook)
    ((printed, fault),) = run(copy, f'from x1.course import check\n{WRONG}\ncheck("mfu")')
    assert fault is None and "incorrecto" in printed and "no es un medio" in printed


# ---- Outside a kernel


def test_a_prediction_is_recorded_once_and_stays(copy, capsys):
    assert predict("loss", 10.8, plus_or_minus=0.3) == (10.8, 0.3)
    assert predict("loss", 5, 1) == (10.8, 0.3)
    assert predict("loss", value=None, plus_or_minus=None) == (10.8, 0.3)
    assert predicted("loss").plus_or_minus == 0.3
    lines = [line for line in folder.read_lines(copy.log) if line["event"] == "predict"]
    assert [(line["value"], line["plus_or_minus"]) for line in lines] == [(10.8, 0.3)]
    work.make(copy, "en", copy.notebook, keep=False)
    with pytest.raises(Stop):
        predicted("loss")


@pytest.mark.parametrize(
    ("value", "spread", "key"),
    [
        (..., ..., "unwritten"),
        (1.0, None, "unwritten"),
        ("11", 1, "not_a_number"),
        (float("nan"), 1, "not_a_number"),
        (True, 1, "not_a_number"),
        (1.0, float("inf"), "not_a_number"),
        (1.0, 0, "no_interval"),
        (1.0, -1, "no_interval"),
    ],
)
def test_what_is_no_prediction_is_refused_and_not_recorded(copy, value, spread, key):
    with pytest.raises(Stop) as refused:
        predict("loss", value, spread)
    given = {"not_a_number": value, "no_interval": spread}.get(key)
    if key == "not_a_number" and value == 1.0 and value is not True:
        given = spread
    sentence = catalogue("en")[f"notebook.{key}"].format(id="loss", value=given)
    assert str(refused.value) == sentence
    assert refused.value._render_traceback_() == [sentence]
    assert work.history(copy, "predict") == []


@pytest.mark.parametrize("use", [predicted, lambda id: predict(id, 1, 1)])
def test_a_prediction_the_lab_does_not_have_is_refused(copy, use):
    with pytest.raises(Stop) as refused:
        use("los")
    assert str(refused.value) == say("notebook.unknown_prediction", "en", id="los", nearest="loss")


def test_outside_a_labs_folder_the_notebook_says_where_it_belongs(copy, monkeypatch):
    monkeypatch.chdir("..")
    with pytest.raises(Stop) as refused:
        notebook.check("mfu")
    assert str(refused.value) == say("work.not_a_lab", "en", path=Path.cwd())


def test_the_small_setting_is_asked_for_by_the_environment(monkeypatch):
    monkeypatch.delenv(notebook.SMALL, raising=False)
    assert setting(400, small=20) == 400
    monkeypatch.setenv(notebook.SMALL, "1")
    assert setting(400, small=20) == 20


def test_the_package_gives_what_a_notebook_imports_and_no_more():
    assert course.check is notebook.check
    assert all(getattr(course, name) for name in course.__all__)
    with pytest.raises(AttributeError):
        course.grader  # noqa: B018
