"""What the site's hooks make: labs without solutions, the map, formulas, glossary, plots, API."""

import ast
import html
import json
import re
import shutil
from pathlib import Path

import hooks_glossary
import hooks_maths
import hooks_measured
import hooks_path
import hooks_reference
import hooks_search
import hooks_stages
import pytest

from x1.course import source

ROOT = Path(__file__).parents[1]
LABS = [ROOT / "labs" / stage.name for stage in hooks_stages.stages(ROOT) if stage.lab]
SUFFIX = {"en": "", "es": "es/"}


def text_of(page: Path) -> str:
    """A page's own text, tags taken out."""
    article = page.read_text("utf-8").split("<article")[1].split("</article>")[0]
    return html.unescape(re.sub(r"<[^>]*>", "", article))


@pytest.mark.parametrize("language", ["en", "es"])
@pytest.mark.parametrize("folder", LABS, ids=lambda folder: folder.name)
def test_a_lab_shows_every_cell_and_no_solution(site, folder, language):
    lab = source.read_lab(folder)
    shown = text_of(site / f"{SUFFIX[language]}labs/{lab.name}/index.html")
    words = hooks_stages.words(language)
    for exercise in lab.exercises.values():
        assert f"{words['exercise']} · {exercise.id}" in shown
        assert exercise.stub.strip() in shown
        stub, given = exercise.stub.split("\n"), "\n".join(c.text(language) for c in lab.cells)
        secret = [
            line
            for line in exercise.solution.split("\n")
            if len(line.strip()) > 20 and line not in stub and line not in given
        ]
        assert secret, exercise.id
        assert not [line for line in secret if line in shown]
    for cell in lab.cells:
        if cell.kind == "code":
            assert cell.text(language).strip() in shown


@pytest.mark.parametrize("language", ["en", "es"])
def test_the_map_is_what_is_written(site, language):
    page = (site / f"{SUFFIX[language]}index.html").read_text("utf-8")
    there = hooks_stages.stages(ROOT)
    assert re.findall(r'data-number="(\d\d)"', page) == [stage.name[:2] for stage in there]
    shown = text_of(site / f"{SUFFIX[language]}index.html")
    for stage in there:
        if stage.titles:
            assert stage.titles[language] in shown
        if stage.lab:
            assert stage.lab["title"][language] in shown
    assert re.search(r"1× A100-80GB \D+ \$1\.39/h", shown)
    assert "{" not in shown and "<!--" not in page.split("<article")[1]


def test_what_is_not_whole_is_not_advertised(tmp_path):
    theory, lab = tmp_path / "theory", tmp_path / "labs/03-half"
    theory.mkdir()
    lab.mkdir(parents=True)
    (theory / "03-half.md").write_text("# Half? {#half}\n")
    (lab / "lab.toml").write_text("number = 3\n")
    (lab / "lab.ipynb").write_text("{}")
    assert hooks_stages.stages(tmp_path) == []
    (theory / "03-half.es.md").write_text("# ¿La mitad? {#half}\n")
    (stage,) = hooks_stages.stages(tmp_path)
    assert stage.pages == ["chapters/03-half.md"]
    assert stage.titles == {"en": "Half?", "es": "¿La mitad?"}
    (lab / "lab.es.ipynb").write_text("{}")
    other = tmp_path / "labs/04-alone"
    shutil.copytree(lab, other)  # a lab without its chapter
    (stage,) = hooks_stages.stages(tmp_path)
    assert stage.pages == ["chapters/03-half.md", "labs/03-half.md"]


def test_the_path_to_a_job_is_a_page_with_links_into_the_site(site):
    assert (
        hooks_path.as_page(
            "# T {#t}\n\n**English** · [Español](HIRING_PATH.es.md)\n\n[a](docs/scale.md#x) "
            "[b](theory/00-motivation.es.md) [c](labs/00-motivation/lab.es.ipynb)"
        )
        == "# T {#t}\n\n\n[a](scale.md#x) [b](chapters/00-motivation.md) [c](labs/00-motivation.md)"
    )
    assert hooks_path.is_there(ROOT) == (site / "hiring-path/index.html").is_file()


def test_reading_time_counts_sentences_only():
    prose = "one two three four " * 250
    assert hooks_stages.minutes_to_read(prose) == 5
    assert hooks_stages.minutes_to_read(f"{prose}\n```python\n{prose}\n```\n| {prose} |\n") == 5
    assert hooks_stages.minutes_to_read("short") == 1


@pytest.mark.parametrize("page", ["chapters", "es/chapters"])
def test_a_chapter_leads_into_its_lab(site, page):
    for stage in hooks_stages.stages(ROOT):
        if not (stage.titles and stage.lab):
            continue
        shown = (site / page / stage.name / "index.html").read_text("utf-8")
        assert re.search(rf'<a class="md-button" href="[./]*/labs/{stage.name}/"', shown)
        option = " --lang es" if page.startswith("es") else ""
        plain = text_of(site / page / stage.name / "index.html")
        assert f"x1 start {stage.number}{option}\nx1 grade {stage.number}" in plain


def test_a_formula_is_drawn_and_can_be_read():
    shown = hooks_maths.rendered(r"L = E + \frac{A}{N^\alpha}")
    assert shown.count("<path") == 7  # L = E + A N α
    assert "<mfrac>" in shown and "<mi>α</mi>" in shown
    assert 'display="block"' in hooks_maths.rendered(r"x \pm 1", block=True)


@pytest.mark.parametrize(
    ("formula", "why"),
    [
        (r"\foo{x}", r"\\foo is not known"),
        (r"\frac{a}{b", "a brace is missing"),
        ("a}", "a brace too many"),
        ("x^", "MissingSuperScript"),
        ("a & b", "ParseError"),
        (r"\left( x", "."),
        (r"\begin{cases} 1", "."),
    ],
)
def test_a_formula_that_cannot_be_drawn_is_refused(formula, why):
    with pytest.raises(hooks_maths.FormulaError, match=why):
        hooks_maths.rendered(formula)


def test_prices_are_no_formulas():
    from markdown import markdown

    extension = [hooks_maths.MATHS]
    for text in ("from $11 to $50", "$35.00 ($50)", "a \\$x\\$ b", "`$x$`", "US$5 and $6$7"):
        assert "<svg" not in markdown(text, extensions=extension), text
    assert markdown("so $x$, and $y$.", extensions=extension).count("<svg") == 2


def test_the_glossary_is_sound_and_every_term_is_on_its_page(site):
    table = hooks_glossary.entries()
    assert hooks_glossary.faults(table) == []
    for language, folder in SUFFIX.items():
        page = (site / f"{folder}glossary/index.html").read_text("utf-8")
        assert set(re.findall(r'<h2 id="([\w-]+)"', page)) == set(table)
        for entry in table.values():
            assert html.escape(entry[language]["text"], quote=False) in page


def test_a_faulty_glossary_is_told():
    half = {"en": {"term": "x", "text": "a", "forms": ["x"]}, "es": {"term": "x"}, "see": ["y"]}
    found = hooks_glossary.faults({"x": half})
    assert found == [
        "'x' has no text in 'es'",
        "'x' has forms in one language only",
        "'x' says see 'y', which is no term",
    ]


def test_a_chapter_links_the_first_use_of_a_term_and_no_other(site):
    linked = 0
    for stage in hooks_stages.stages(ROOT):
        for language, folder in SUFFIX.items():
            page = site / f"{folder}chapters/{stage.name}/index.html"
            terms = re.findall(r'<a class="term" href="([^"]+)" title="([^"]+)"',
                               page.read_text("utf-8"))  # fmt: skip
            keys = [href.partition("#")[2] for href, _ in terms]
            assert len(keys) == len(set(keys)) and set(keys) <= set(hooks_glossary.entries())
            for href, title in terms:
                said = hooks_glossary.entries()[href.partition("#")[2]][language]["text"]
                assert html.unescape(title) == said
            linked += len(keys)
    assert linked > 10


@pytest.mark.parametrize(("language", "folder"), SUFFIX.items())
def test_every_plot_shows_the_numbers_of_its_file(site, language, folder):
    page = text_of(site / f"{folder}measured/index.html")
    drawn = 0
    for stem, plots in hooks_measured.plots().items():
        record = json.loads((ROOT / f"docs/measured/{stem}.json").read_text("utf-8"))
        for plot in plots:
            if "bars" not in plot:
                continue
            rows = hooks_measured.rows_of(hooks_measured.at(record, plot["bars"]))
            assert rows
            for row in rows:
                label = plot.get(f"label_{language}", plot["label"]).format(**row)
                value = hooks_measured.number(hooks_measured.at(row, plot["value"]))
                assert f"{label}{hooks_measured.short(value)}" in page
                drawn += 1
    assert drawn > 50


def test_a_bar_is_as_long_as_its_number():
    table = hooks_measured.bars("t", [("a", 5.0, None), ("b", 20.0, 10.0), ("<c>", 0.0, None)])
    assert re.findall(r'<rect width="([\d.]+)%"', table) == ["25.00", "100.00", "0.00"]
    assert 'x1="50.00%"' in table and "20 | 10" in table and "&lt;c&gt;" in table


def test_a_number_keeps_what_can_be_told_apart():
    values = (0.00052, 1.0349, 27.499, 999.6, 1234.5, 120_000, float("nan"), 0)
    shown = ["0.00052", "1.035", "27.5", "999.6", "1,234", "120,000", "–", "0"]
    assert [hooks_measured.short(value) for value in values] == shown


def test_a_plot_of_what_is_not_there_is_told(tmp_path, monkeypatch, caplog):
    path = tmp_path / "some.json"
    path.write_text('{"rows": [{"a": 1}]}')
    plot = {"bars": "lines", "title": {"en": "t"}, "label": "{a}", "value": "a"}
    monkeypatch.setattr(hooks_measured, "plots", lambda: {"some": [plot]})
    assert "<table" in hooks_measured.shown(path, "en")  # the folded one
    assert "KeyError('lines')" in caplog.text


def test_every_docstring_of_the_package_is_in_the_reference(site):
    missing = []
    shown = {
        language: {page: (site / f"{folder}reference/{page}/index.html").read_text("utf-8")
                   for page in (group["id"] for group in hooks_reference.groups())}
        for language, folder in SUFFIX.items()
    }  # fmt: skip
    for path in sorted((ROOT / "src/x1").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        module = ".".join(path.relative_to(ROOT / "src").with_suffix("").parts)
        for node in tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
            if module != "x1.__init__" and public and ast.get_docstring(node):
                id = f'id="{module.removesuffix(".__init__")}.{node.name}"'
                for language, pages in shown.items():
                    if sum(text.count(id) for text in pages.values()) != 1:
                        missing.append((language, id))
    assert not missing
    assert (
        'lang="en"' in shown["es"]["plan"] and "docstrings están en inglés" in shown["es"]["plan"]
    )


def test_a_signature_is_what_the_source_says():
    node = ast.parse("def f(a: dict[str, int], *, b: float = 1.0) -> int: 'Doc.'").body[0]
    assert hooks_reference.signature(node) == "def f(a: dict[str, int], *, b: float=1.0) -> int"
    long = f"def f({', '.join(f'argument_{n}: tuple[int, str]' for n in range(4))}): 'Doc.'"
    lines = hooks_reference.signature(ast.parse(long).body[0]).split("\n")
    assert lines[1] == "    argument_0: tuple[int, str]," and len(lines) == 6
    assert hooks_reference.prose("One `two`.\n\n    a < b\n\nThree\nfour.") == (
        '<p>One <code>two</code>.</p><pre tabindex="0">    a &lt; b</pre><p>Three four.</p>'
    )


def test_each_language_has_an_index_of_its_own(site):
    indices = {
        language: json.loads((site / f"{folder}search/search_index.json").read_text("utf-8"))
        for language, folder in SUFFIX.items()
    }
    for language, index in indices.items():
        assert index["config"]["lang"] == [language]
        assert not [e for e in index["docs"] if e["location"].startswith("es/")]
    places = {lang: {e["location"].partition("#")[0] for e in index["docs"]}
              for lang, index in indices.items()}  # fmt: skip
    assert places["en"] == places["es"] and "measured/" in places["en"]
    for folder in ("", "guard/", "labs/00-motivation/"):
        english = (site / folder / "index.html").read_text("utf-8")
        spanish = (site / "es" / folder / "index.html").read_text("utf-8")
        base = re.compile(r'"base": "([./]+)"')
        assert base.findall(english) == base.findall(spanish) != []
    assert hooks_search.one_less("../..") == ".." and hooks_search.one_less("..") == "."
