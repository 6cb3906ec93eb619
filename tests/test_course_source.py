"""A lab's source is read as jupytext reads it, and what it must not hold is refused by line."""

import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from x1.course import build, cells, labels
from x1.course.source import find_lab, lab_folders, labs_folder, read_lab
from x1.text import UserError

LABS = Path(__file__).parents[1] / "labs"

SOURCE = """\
# %% [markdown] lang="en"
# ## The share of the peak
#
# It is $u = a / p$.

# %% [markdown] lang="es"
# ## La parte del pico
#
# Es $u = a / p$.

# %%
from x1.course import check, label, predict, predicted


# %% exercise="share"
# exercise: share
def share(achieved: float, peak: float) -> float:
    # solution
    if peak <= 0:
        raise ValueError(peak)
    return achieved / peak
    # end solution


# %%
check("share")

# %%
predict("first", value=None, plus_or_minus=None)


# %% exercise="twice"
# exercise: twice
def twice(x: float) -> float:
    total = x
    for _ in range(1):
        # solution
        total += x
        # end solution
    return total


# %%
print(label("loss"), predicted("first"), f"{twice(2):.2f} nats")
"""

TABLE = """\
number = 90
slug = "tiny"
minutes = 1.5
cost_usd = 0

[title]
en = "A tiny lab"
es = "Un laboratorio mínimo"

[hardware]
en = "any CPU"
es = "cualquier CPU"

[exercises.share]
may_use = ["x1.flops"]
hints.en = ["It is a ratio."]
hints.es = ["Es un cociente."]

[exercises.twice]
hints.en = ["Add.", "Once."]
hints.es = ["Suma.", "Una vez."]

[messages.ratio]
en = "With {peak} it is none."
es = "Con {peak} no lo es."

[labels.share]
en = "share"
es = "parte"

[predictions.first]
value = 9.7
plus_or_minus = 0.1
"""


@pytest.fixture
def folder(tmp_path):
    """labs/90-tiny, a sound lab of two exercises."""
    made = tmp_path / "labs" / "90-tiny"
    made.mkdir(parents=True)
    (made / "lab.py").write_text(SOURCE, "utf-8")
    (made / "lab.toml").write_text(TABLE, "utf-8")
    return made


def line_of(text, part):
    """The line, from 1, in which a part of a text begins."""
    return text[: text.index(part)].count("\n") + 1


def test_a_sound_lab_is_read_whole(folder):
    lab = read_lab(folder)
    assert (lab.name, lab.minutes, lab.cost_usd) == ("90-tiny", 1.5, 0)
    assert lab.title == {"en": "A tiny lab", "es": "Un laboratorio mínimo"}
    assert list(lab.exercises) == ["share", "twice"]
    assert lab.exercises["share"].may_use == ("x1.flops",)
    assert lab.exercises["twice"].hints["es"] == ("Suma.", "Una vez.")
    assert lab.messages["ratio"]["es"] == "Con {peak} no lo es."
    assert lab.predictions["first"].value == 9.7
    prose = lab.cells[0]
    assert (prose.kind, prose.line) == ("markdown", 2)
    assert prose.en.startswith("## The share") and prose.es.startswith("## La parte")
    assert prose.en == prose.text("en") and prose.es == prose.text("es")


def test_a_stub_keeps_everything_but_the_solution(folder):
    exercises = read_lab(folder).exercises
    assert exercises["share"].stub == (
        "# exercise: share\n"
        "def share(achieved: float, peak: float) -> float:\n"
        "    raise NotImplementedError"
    )
    assert "        raise NotImplementedError\n    return total" in exercises["twice"].stub
    assert exercises["twice"].solution == (
        "# exercise: twice\ndef twice(x: float) -> float:\n    total = x\n"
        "    for _ in range(1):\n        total += x\n    return total"
    )
    found = {}
    exec(exercises["twice"].solution, found)
    assert found["twice"](3) == 6
    exec(exercises["twice"].stub, found)
    with pytest.raises(NotImplementedError):
        found["twice"](3)


BROKEN = {  # what is replaced, by what, the line at fault, words of the sentence
    "no end": (
        "    return achieved / peak\n    # end solution\n",
        "    return 1\n",
        "# solution",
        "no '# end solution'",
    ),
    "no start": (
        "    # solution\n    if peak",
        "    if peak",
        "# end solution",
        "without a '# solution'",
    ),
    "nested": (
        "    if peak <= 0:",
        "    # solution\n    if peak <= 0:",
        "    # solution\n    if",
        "has not ended",
    ),
    "empty": (
        "    total = x\n",
        "    # solution\n    # end solution\n    total = x\n",
        "    # solution\n    # end",
        "nothing stands between",
    ),
    "no solution": (
        "        # solution\n        total += x\n        # end solution\n",
        "        total += x\n",
        "# exercise: twice",
        "no '# solution'",
    ),
    "markers outside": (
        'check("share")\n',
        '# solution\ncheck("share")\n',
        '# solution\ncheck("share")',
        "only stand in an exercise",
    ),
    "no Spanish": (
        '# %% [markdown] lang="es"\n# ## La parte del pico\n#\n# Es $u = a / p$.\n',
        "",
        "# ## The share",
        "no twin in 'es'",
    ),
    "no English": (
        '# %% [markdown] lang="en"\n# ## The share of the peak\n#\n# It is $u = a / p$.\n',
        "",
        "# ## La parte",
        "no twin in 'en'",
    ),
    "twin too late": (
        '# %% [markdown] lang="es"',
        '# %%\ncheck("share")\n\n# %% [markdown] lang="es"',
        "# ## The share",
        "no twin in 'es'",
    ),
    "no language": (' lang="en"', "", "# ## The share", "needs its language"),
    "duplicate": (
        'exercise="twice"\n# exercise: twice\ndef twice(',
        'exercise="share"\n# exercise: share\ndef share(',
        "# exercise: share\ndef share(x",
        "already stands at line",
    ),
    "unknown": (
        'exercise="twice"\n# exercise: twice\ndef twice(',
        'exercise="twise"\n# exercise: twise\ndef twise(',
        "# exercise: twise",
        "nearest is 'twice'",
    ),
    "other first line": (
        "# exercise: twice\n",
        "# exercise: share\n",
        "# exercise: share\ndef twice",
        "first line of this cell must be '# exercise: twice'",
    ),
    "stray first line": (
        'check("share")\n',
        '# exercise: share\ncheck("share")\n',
        "# exercise: share\ncheck",
        "may only be the first line",
    ),
    "no function": ("def twice(", "def double(", "# exercise: twice", "a function called twice"),
    "comment": (
        'check("share")\n',
        'check("share")  # now we check it\n',
        'check("share")',
        "holds no sentence",
    ),
    "comment in a solution": (
        "    # solution\n    if peak",
        "    # solution\n    # no such card\n    if peak",
        "    # no such card",
        "holds no sentence",
    ),
    "string": ('check("share")\n', 'x = "the loss falls"\n', 'x = "the', "holds no sentence"),
    "docstring": (
        "    total = x\n",
        '    """Twice a number."""\n    total = x\n',
        '    """Twice',
        "holds no sentence",
    ),
    "f-string": (
        "{twice(2):.2f} nats",
        "{twice(2):.2f} nats per token",
        "print(label",
        "holds no sentence",
    ),
    "shown word": ('print(label("loss")', 'print("loss"', 'print("loss"', "'loss' would be shown"),
    "plot label": (
        'check("share")\n',
        'ax.set_xlabel("step")\n',
        "ax.set_xlabel",
        "'step' would be shown",
    ),
    "curve's label": (
        'check("share")\n',
        'ax.plot([1], label="step")\n',
        "ax.plot",
        "'step' would be shown",
    ),
    "no such term": ('label("loss")', 'label("los")', "print(label", "nearest is 'loss'"),
    "no such prediction": (
        'predicted("first")',
        'predicted("fist")',
        "print(label",
        "nearest is 'first'",
    ),
    "no such check": (
        'check("share")\n',
        'check("sahre")\n',
        'check("sahre")',
        "nearest is 'share'",
    ),
    "prediction given": (
        'predict("first", value=None',
        'predict("first", value=9.7',
        "predict(",
        "leave the numbers",
    ),
    "syntax": (
        "    for _ in range(1):",
        "    for _ in range(1)",
        "    for _ in range(1)\n",
        "not valid Python",
    ),
    "magic": ('check("share")\n', "%timeit 1\n", "%timeit", "not valid Python"),
    "option": ('# %% exercise="twice"', '# %% tags=["x"]', "# %% tags", "a cell begins with"),
    "bare prose": ("# It is $u", "It is $u", "It is $u", "begins with '# '"),
    "empty cell": ('check("share")\n', "\n", "# %%\n\n\n# %%", "is empty"),
    "text on top": (
        "# %% [markdown]",
        "import os\n# %% [markdown]",
        "import os",
        "before the first cell",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_is_refused_with_its_file_and_line(folder, name):
    old, new, at, words = BROKEN[name]
    assert SOURCE.count(old)
    broken = SOURCE.replace(old, new, 1)
    (folder / "lab.py").write_text(broken, "utf-8")
    with pytest.raises(UserError) as refused:
        read_lab(folder)
    said = str(refused.value)
    assert words in said
    assert said.startswith(f"{folder / 'lab.py'}:{line_of(broken, at)}: "), said


BROKEN_TABLES = {
    "missing": ('slug = "tiny"\n', "", 1, "slug is missing"),
    "unknown": ("minutes = 1.5\n", "minutes = 1.5\nminute = 2\n", "minute = 2", "no field minute"),
    "wrong type": ("minutes = 1.5", 'minutes = "long"', "minutes = ", "cannot have this value"),
    "one language": ('es = "cualquier CPU"\n', "", "[hardware]", "hardware.es is missing"),
    "hints": ('"Suma.", "Una vez."', '"Suma."', "[exercises.twice]", "2 hints in English and 1 in"),
    "no cell": (
        "[messages.ratio]",
        '[exercises.third]\nhints.en = ["a"]\nhints.es = ["b"]\n\n[messages.ratio]',
        "[exercises.third]",
        "'third' has no cell",
    ),
    "placeholders": ("Con {peak}", "Con {peack}", "[messages.ratio]", "other placeholders"),
    "half a placeholder": ("Con {peak}", "Con {peak", "[messages.ratio]", "other placeholders"),
    "other folder": ("number = 90", "number = 91", 1, "belong to another"),
    "bad id": (
        "[exercises.twice]",
        '[exercises."a b"]\nhints.en = ["a"]\nhints.es = ["b"]\n\n[exercises.twice]',
        '[exercises."a b"]',
        "no name of a Python function",
    ),
}


@pytest.mark.parametrize("name", BROKEN_TABLES)
def test_a_fault_of_the_table_is_refused_with_its_line(folder, name):
    old, new, at, words = BROKEN_TABLES[name]
    assert TABLE.count(old)
    broken = TABLE.replace(old, new, 1)
    (folder / "lab.toml").write_text(broken, "utf-8")
    with pytest.raises(UserError) as refused:
        read_lab(folder)
    said = str(refused.value)
    assert words in said
    line = at if isinstance(at, int) else line_of(broken, at)
    assert said.startswith(f"{folder / 'lab.toml'}:{line}: "), said


def test_what_is_not_toml_or_not_there_is_one_sentence(folder):
    (folder / "lab.toml").write_text("number = ")
    with pytest.raises(UserError, match=r"lab\.toml is not valid TOML"):
        read_lab(folder)
    (folder / "lab.toml").unlink()
    with pytest.raises(UserError, match=r"lab\.toml is missing"):
        read_lab(folder)


def test_a_solution_may_return_a_sentence_of_its_own(folder):
    text = SOURCE.replace("        total += x\n", '        total += len("one two three")\n')
    (folder / "lab.py").write_text(text)
    assert "one two three" in read_lab(folder).exercises["twice"].solution


def test_units_and_formulas_may_stand_in_a_code_cell(folder):
    shown = 'print(f"{1:.2f} nats", "MFU", r"$\\eta$", sep=", ")\nx = {"loss": 1}["loss"]'
    (folder / "lab.py").write_text(SOURCE.replace('check("share")', f'check("share")\n{shown}'))
    assert any(shown in cell.en for cell in read_lab(folder).cells)


# ---- The notebooks


def test_cells_keep_their_ids_when_words_change(folder):
    before = [cell.id for cell in read_lab(folder).cells]
    assert len(set(before)) == len(before)
    assert all(re.fullmatch(r"x1-[\w-]{1,60}", one) for one in before)
    (folder / "lab.py").write_text(
        SOURCE.replace("It is $u", "The share is $u").replace("total = x", "total = 1 * x")
    )
    assert [cell.id for cell in read_lab(folder).cells] == before
    longer = SOURCE.replace('check("share")', 'check("share")\n\n# %%\ncheck("twice")')
    (folder / "lab.py").write_text(longer)
    after = [cell.id for cell in read_lab(folder).cells]
    kept = [one for one in after if one in before]
    assert kept == before and len(after) == len(before) + 1


@pytest.mark.parametrize("lang", ["en", "es"])
def test_a_built_notebook_is_valid_and_without_solutions(folder, lang):
    lab = read_lab(folder)
    record = build.notebook(lab, lang)
    nbformat.validate(record)
    text = build.as_text(lab, lang)
    assert text == nbformat.writes(nbformat.reads(text, 4)) + "\n"
    assert "raise NotImplementedError" in text
    for secret in ("ValueError", "total += x", "# solution", "# end solution"):
        assert secret not in text
    title = {"en": "# 90 · A tiny lab", "es": "# 90 · Un laboratorio mínimo"}[lang]
    top = "".join(record["cells"][0]["source"])
    assert top.startswith(title) and "$0.00" in top and "1.5 min" in top
    code = [c["source"] for c in record["cells"] if c["cell_type"] == "code"]
    other = build.notebook(lab, "es" if lang == "en" else "en")["cells"]
    assert code == [c["source"] for c in other if c["cell_type"] == "code"]
    assert [c["id"] for c in record["cells"]] == [c["id"] for c in other]


def test_build_writes_what_differs_and_nothing_else(folder):
    lab = read_lab(folder)
    assert [path.name for path in build.build(lab)] == ["lab.ipynb", "lab.es.ipynb"]
    assert build.build(lab) == []
    path = folder / "lab.es.ipynb"
    path.write_text(path.read_text("utf-8").replace("La parte", "Una parte"), "utf-8")
    assert build.build(lab) == [path]
    assert "La parte" in path.read_text("utf-8")


def test_the_source_is_read_as_jupytext_reads_it(folder):
    for path in [folder / "lab.py", *LABS.glob("*/lab.py")]:
        theirs = [
            (c.cell_type, c.metadata.get("lang"), c.metadata.get("exercise"), c.source)
            for c in jupytext.read(path).cells
        ]
        assert [found[:4] for found in cells.raw_cells(path)] == theirs


def test_labs_are_found_upward_and_by_number(folder, tmp_path, monkeypatch):
    deep = tmp_path / "work" / "90-tiny"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert labs_folder() == tmp_path / "labs"
    assert lab_folders(labs_folder()) == [folder] == [find_lab(90)]
    with pytest.raises(UserError, match=r"no lab 3; these exist: 90\."):
        find_lab(3)
    with pytest.raises(UserError, match="no folder labs/"):
        labs_folder(Path("/"))


# ---- The glossary


def test_a_label_is_in_the_readers_language(folder, tmp_path, monkeypatch):
    assert labels.label("loss") == "loss" and labels.label("loss", "es") == "pérdida"
    with pytest.raises(UserError, match="nearest is 'loss'"):
        labels.label("los")
    with pytest.raises(UserError):
        labels.label("share")
    work = tmp_path / "work" / "90-tiny"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    assert labels.label("share", "es") == "parte"


def test_the_glossary_has_both_languages_of_every_term():
    for term, said in labels.glossary().items():
        assert set(said) == {"en", "es"} and all(said.values()), term
        assert term == said["en"]


# ---- The labs there are


@pytest.mark.parametrize("place", sorted(LABS.glob("*/lab.py")), ids=lambda path: path.parent.name)
def test_the_committed_notebooks_are_what_the_source_builds(place):
    """If they are not: x1 author build."""
    lab = read_lab(place.parent)
    assert build.outdated(lab) == {}
    for name in ("lab.ipynb", "lab.es.ipynb"):
        nbformat.validate(json.loads((place.parent / name).read_text("utf-8")))
