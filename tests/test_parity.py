"""The two languages: every way in which twins can drift apart is noticed."""

from pathlib import Path

import pytest

from x1.course import parity, prove
from x1.text import UserError

ROOT = Path(__file__).parents[1]

ENGLISH = """\
# Cost {#top}

A run of 7.02 h at $1.39/h costs $9.76.

## The formula {#formula}

With $C = 6ND$ and

$$
h = C / (u p)
$$

it takes 5 billion tokens. Call `mfu(x)`:

```python
print(6 * 7)
```

```text
42
```

### A table {#table}

| tokens | loss |
|---|---|
| 10M | 3.35 |
"""
SPANISH = """\
# Costo {#top}

Una ejecución de 7.02 horas a $1.39/h cuesta $9.76.

## La fórmula {#formula}

Con $C = 6ND$ y

$$
h = C / (u p)
$$

hacen falta 5 mil millones de tokens. Llama a `mfu(x)`:

```python
print(6 * 7)
```

```text
42
```

### Una tabla {#table}

| tokens | pérdida |
|---|---|
| 10M | 3.35 |
"""
LAB = """\
# %% [markdown] lang="en"
# It costs $5.

# %% [markdown] lang="es"
# Cuesta $5.

# %% [markdown] lang="en"
# ## Measure
#
# In 3 minutes.

# %% [markdown] lang="es"
# ## Mide
#
# En 3 minutos.

# %%
x = 1
"""


@pytest.fixture
def root(tmp_path):
    """A repository of one chapter, one page and one lab, its twins in agreement and locked."""
    (tmp_path / "theory").mkdir()
    (tmp_path / "labs" / "02-cost").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    (tmp_path / "theory/02-cost.md").write_text(ENGLISH, "utf-8")
    (tmp_path / "theory/02-cost.es.md").write_text(SPANISH, "utf-8")
    (tmp_path / "docs/index.md").write_text("# Home\n\nText.\n\n## More\n\nWords.\n", "utf-8")
    (tmp_path / "docs/index.es.md").write_text(
        "# Inicio\n\nTexto.\n\n## Más\n\nPalabras.\n", "utf-8"
    )
    (tmp_path / "labs/02-cost/lab.py").write_text(LAB, "utf-8")
    parity.write_lock(tmp_path, list(parity.all_pairs(tmp_path)))
    return tmp_path


def edit(root, name, old, new):
    path = root / name
    text = path.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")


def test_twins_in_agreement_give_no_finding(root):
    assert prove.check_parity(root) == []
    names = [pair.name for pair in parity.all_pairs(root)]
    assert names[:2] == ["docs/index.md#home", "docs/index.md#more"]
    assert [name.partition("#")[2] for name in names[2:5]] == ["top", "formula", "table"]
    assert len(names) == 7 and names[5].startswith("labs/02-cost/lab.py#x1-")


SPANISH_PAGE = "theory/02-cost.es.md"
DRIFTS = {  # an edit of the Spanish side, and the words of the finding
    "number": ("$9.76", "$9.67", "numbers and their units. Only in English: $9.76."),
    "unit": ("7.02 horas", "7.02 minutos", "Only in English: 7.02 h. Only in Spanish: 7.02 min."),
    "decimal comma": ("7.02 horas", "7,02 horas", "Only in Spanish: 7,02 h."),
    "billones": ("5 mil millones de", "5 billones de", "Only in Spanish: 5 trillion."),
    "a number more": ("y\n\n$$", "y 8 y\n\n$$", "Only in English: –. Only in Spanish: 8."),
    "suffix": ("| 10M |", "| 10k |", "Only in English: 10 M."),
    "inline formula": ("$C = 6ND$", "$C = 6DN$", "formulas. Only in English: C = 6ND."),
    "displayed formula": ("h = C / (u p)", "h = C / u", "formulas. Only in English: h = C / (u p)"),
    "code": ("print(6 * 7)", "print(6 * 8)", "code and output"),
    "output": ("\n42\n", "\n43\n", "code and output"),
    "code within a sentence": ("`mfu(x)`", "`mfu(y)`", "inline code. Only in English: `mfu(x)`."),
    "row": ("| 10M | 3.35 |\n", "| 10M | 3.35 |\n| 10M | 3.35 |\n", "number of table rows"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_what_carries_over_must_be_equal(root, name):
    old, new, words = DRIFTS[name]
    edit(root, SPANISH_PAGE, old, new)
    found = prove.check_parity(root)
    assert any(words in said for said in found), found
    (said,) = (said for said in found if words in said)
    line = SPANISH[: SPANISH.index(old)].count("\n") + 1
    heading = max(n for n, text in enumerate(SPANISH.split("\n"), 1)
                  if text.startswith("#") and n <= line)  # fmt: skip
    assert f"{root / SPANISH_PAGE}:{heading}: " in said


HEADINGS = {
    "level": ("### Una tabla {#table}", "## Una tabla {#table}", "headings of the twins differ"),
    "id": ("{#formula}", "{#formule}", "headings of the twins differ"),
    "no id": ("## La fórmula {#formula}", "## La fórmula", "has no id"),
    "one more": ("### Una tabla", "## Otra {#other}\n\n### Una tabla", "headings of the twins"),
    "one more at the end": ("| 3.35 |\n", "| 3.35 |\n\n## Otra {#other}\n", "has 3 headings and"),
    "one less": ("### Una tabla {#table}\n", "", "has 3 headings and"),
}


@pytest.mark.parametrize("name", HEADINGS)
def test_headings_have_equal_levels_and_ids(root, name):
    old, new, words = HEADINGS[name]
    edit(root, SPANISH_PAGE, old, new)
    with pytest.raises(UserError, match=words):
        prove.check_parity(root)


def test_a_comment_in_code_is_no_heading(root):
    for name in ("theory/02-cost.md", SPANISH_PAGE):
        edit(root, name, "print(6 * 7)", "# not a heading\nprint(6 * 7)")
    assert [p.key for p in parity.page_pairs(root, root / "theory/02-cost.md")] == [
        "top", "formula", "table",
    ]  # fmt: skip


def test_money_is_no_formula():
    assert parity.formulas("From $5 to $6, or $7/$8.") == set()
    assert parity.formulas("From $5, $L = 1$ and `$x$`.") == {"L = 1"}
    assert parity.numerals("From $5 to $6 with $n = 7$ ([8 h](a9.md)).") == {"$5", "$6", "8 h"}


def test_an_adjective_may_stand_between_a_number_and_its_noun(root):
    def found(english, spanish):
        pair = parity.Pair("a.md", "a", english, spanish, "a.md:1", "a.es.md:1")
        return parity.differences(pair)

    assert found("16 small steps", "16 pasos pequeños") == []
    assert found("16 steps", "16 pasos") == [] != found("16 steps", "16 capas")
    assert found("16 steps", "17 pasos") and found("16 h", "16 largas horas")


@pytest.mark.parametrize("gone", ["theory/02-cost.es.md", "theory/02-cost.md", "docs/index.es.md"])
def test_a_page_without_its_twin_is_refused(root, gone):
    (root / gone).unlink()
    with pytest.raises(UserError, match="has no twin") as refused:
        prove.check_parity(root)
    assert str(root / gone) in str(refused.value)


# ---- The lock


EDITS = {  # one edit on each side of one pair, and the name of the pair
    "chapter": ("theory/02-cost.md#top", ("theory/02-cost.md", "A run of", "One run of"),
                (SPANISH_PAGE, "Una ejecución", "Cada ejecución")),
    "page": ("docs/index.md#more", ("docs/index.md", "Words.", "Better words."),
             ("docs/index.es.md", "Palabras.", "Mejores palabras.")),
    "heading": ("docs/index.md#more", ("docs/index.md", "Words.", "Better words."),
                ("docs/index.es.md", "## Más", "## Algo más")),
    "lab": ("labs/02-cost/lab.py#", ("labs/02-cost/lab.py", "It costs", "It will cost"),
            ("labs/02-cost/lab.py", "Cuesta", "Costará")),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("side", ["English", "Spanish"])
def test_an_edit_of_one_side_is_a_finding_until_the_twin_follows(root, name, side):
    pair, *edits = EDITS[name]
    if side == "Spanish":
        edits.reverse()
    edit(root, *edits[0])
    (said,) = prove.check_parity(root)
    assert said.startswith(pair) and f"the {side} (" in said and "--acknowledge" in said
    parity.write_lock(root, list(parity.all_pairs(root)))
    assert prove.check_parity(root) == [said], "building again must not hide it"
    edit(root, *edits[1])
    (said,) = prove.check_parity(root)
    assert "run x1 author build" in said
    parity.write_lock(root, list(parity.all_pairs(root)))
    assert prove.check_parity(root) == []


def test_a_pair_that_needs_no_twin_edit_is_acknowledged_by_name(root):
    edit(root, "docs/index.md", "Words.", "Words!")
    edit(root, "theory/02-cost.md", "A run of", "One run of")
    pairs = list(parity.all_pairs(root))
    assert parity.write_lock(root, pairs, "docs/index.md#more") == ["docs/index.md#more"]
    (said,) = prove.check_parity(root)
    assert said.startswith("theory/02-cost.md#top: ")
    with pytest.raises(UserError, match=r"these do: theory/02-cost\.md#top"):
        parity.write_lock(root, pairs, "docs/index.md#more")
    assert parity.write_lock(root, pairs, "theory/02-cost.md") == ["theory/02-cost.md#top"]
    assert prove.check_parity(root) == []


def test_a_change_taken_back_is_no_drift(root):
    edit(root, "docs/index.md", "Words.", "Words!")
    assert len(prove.check_parity(root)) == 1
    edit(root, "docs/index.md", "Words!", "Words.")
    assert prove.check_parity(root) == []


def test_a_drifted_cell_is_noticed_wherever_it_moves(root):
    """A cell put before it shifts every place: what counts is the text, not where it stands."""
    edit(root, "labs/02-cost/lab.py", "It costs", "It will cost")
    path = root / "labs/02-cost/lab.py"
    new = '# %% [markdown] lang="en"\n# New.\n\n# %% [markdown] lang="es"\n# Nueva.\n\n'
    path.write_text(new + path.read_text("utf-8"), "utf-8")
    parity.write_lock(root, list(parity.all_pairs(root)))
    (said,) = prove.check_parity(root)
    assert "the English (" in said and "lab.py:8" in said


def test_twins_that_changed_places_are_noticed(root):
    text = LAB.replace("# Cuesta $5.", "@").replace("# ## Mide\n#\n# En 3 minutos.", "# Cuesta $5.")
    text = text.replace("@", "# ## Mide\n#\n# En 3 minutos.")
    (root / "labs/02-cost/lab.py").write_text(text, "utf-8")
    found = prove.check_parity(root)
    assert sum("changed and its twin" in said for said in found) == 2
    assert any("differ in their headings" in said for said in found)


def test_a_missing_or_damaged_lock_is_told(root):
    path = root / parity.LOCK
    text = path.read_text("utf-8")
    path.write_text(text.rsplit("\n", 2)[0] + "\n", "utf-8")
    (said,) = prove.check_parity(root)
    assert "does not know today's texts" in said
    path.unlink()
    assert prove.check_parity(root) == [said]
    path.write_text(text + "one two\n", "utf-8")
    with pytest.raises(UserError, match=r"parity\.lock:\d+: a line of the lock"):
        prove.check_parity(root)


def test_the_lock_of_one_stage_leaves_the_others_alone(root):
    edit(root, "theory/02-cost.md", "A run of", "One run of")
    edit(root, SPANISH_PAGE, "Una ejecución", "Cada ejecución")
    edit(root, "docs/index.md", "Words.", "Better words.")
    edit(root, "docs/index.es.md", "Palabras.", "Mejores palabras.")
    before = set((root / parity.LOCK).read_text("utf-8").split("\n"))
    parity.write_lock(root, list(parity.all_pairs(root, "02-cost")), only="02-cost")
    after = set((root / parity.LOCK).read_text("utf-8").split("\n"))
    assert {line.partition("#")[0] for line in before ^ after} == {"theory/02-cost.md"}
    assert prove.check_parity(root, "02-cost") == []
    assert len(prove.check_parity(root)) == 1


# ---- The repository


def test_the_repositorys_twins_agree():
    """If the lock is not up to date: x1 author build; if a twin drifted, edit it."""
    assert prove.check_parity(ROOT) == []
