"""The site builds strictly and offline, in both languages, and its twins and READMEs agree."""

import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import hooks_path
import hooks_reference
import hooks_stages
import pytest
from typer.main import get_command

from x1.cli import build_app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCES = [*DOCS.rglob("*.md"), *(DOCS / "chapters").glob("*.md")]  # rglob follows no link
PAGES = sorted(path for path in set(SOURCES) if not path.name.endswith(".es.md"))
TWINS = [(page, page.with_suffix(".es.md")) for page in [ROOT / "README.md", *PAGES]]
READMES = [ROOT / "README.md", ROOT / "README.es.md"]
LABS = [stage.name for stage in hooks_stages.stages(ROOT) if stage.lab]
PATH = [hooks_path.PAGE] if hooks_path.is_there(ROOT) else []
REFERENCE = [page["id"] for page in hooks_reference.groups()]
LOADED = {"src", "srcset", "poster", "data"}  # attributes whose target the browser fetches itself


class Page(HTMLParser):
    """A page's language, its first heading, what it loads and where it leads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.language, self.title = "", ""
        self.loads: list[str] = []
        self.leads_to: list[str] = []
        self._inside: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self._inside = [*self._inside[-8:], tag]
        if tag == "html":
            self.language = given.get("lang", "")
        self.loads += [value for name, value in given.items() if name in LOADED]
        if tag == "link":
            self.loads.append(given["href"])
        if tag == "a" and "href" in given:
            self.leads_to.append(given["href"])

    def handle_data(self, text: str) -> None:
        if not self.title and self._inside and self._inside[-1] == "h1":
            self.title = text.strip()
        if self._inside and self._inside[-1] == "style":
            self.loads += css_loads(text)


def css_loads(css: str) -> list[str]:
    """What a style sheet fetches."""
    imports = re.findall(r"@import\s+[\"']([^\"']+)", css)
    return imports + re.findall(r"url\(\s*[\"']?([^\"')]+)", css)


def built(site: Path, page: Path) -> Path:
    """Where the page of a source file is: x.md at x/, x.es.md at es/x/, an index one level up."""
    inside = page.relative_to(DOCS)
    name = inside.name.removesuffix(".md").removesuffix(".es")
    folder = site / "es" if page.name.endswith(".es.md") else site
    folder = folder / inside.parent
    return (folder if name == "index" else folder / name) / "index.html"


def heading(page: Path) -> str:
    return re.sub(r" \{#[\w-]+\}$", "", page.read_text("utf-8").split("\n", 1)[0]).removeprefix(
        "# "
    )


def test_every_page_is_there_in_both_languages(site: Path) -> None:
    """A missing twin would be served in English under /es/ without a warning."""
    sources = [side for pair in TWINS[1:] for side in pair]
    made = [
        DOCS / folder / f"{name}{suffix}"
        for folder, names in (("", PATH), ("labs", LABS), ("reference", REFERENCE))
        for name in names
        for suffix in (".md", ".es.md")
    ]
    pages = sorted(built(site, page) for page in [*sources, *made])
    assert pages == sorted(site.rglob("*.html"))
    for page in made:
        assert Page(built(site, page)).language == ("es" if ".es." in page.name else "en"), page
    for page in sources:
        shown = Page(built(site, page))
        assert shown.language == ("es" if page.name.endswith(".es.md") else "en"), page
        assert shown.title == heading(page), page


def test_nothing_is_loaded_from_another_host(site: Path) -> None:
    wanted = {path: Page(path).loads for path in site.rglob("*.html")}
    wanted |= {path: css_loads(path.read_text("utf-8")) for path in site.rglob("*.css")}
    assert any(wanted.values())
    for path, targets in wanted.items():
        outside = [t for t in targets if re.match(r"(?!data:)\w+:|//", t)]
        assert not outside, f"{path} loads {outside}"


def test_every_link_inside_the_site_is_relative_and_leads_somewhere(site: Path) -> None:
    """Also the language switch, and wherever the site is put."""
    for path in site.rglob("*.html"):
        shown = Page(path)
        for target in shown.loads + shown.leads_to:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or not parts.path:
                continue
            assert not parts.path.startswith("/"), f"{path}: {target}"
            file = path.parent / unquote(parts.path)
            assert (file / "index.html" if file.is_dir() else file).is_file(), f"{path}: {target}"


def test_every_measurement_is_listed_in_both_languages(site: Path) -> None:
    results = sorted((DOCS / "measured").glob("*.json"))
    assert results
    for page in (DOCS / "measured.md", DOCS / "measured.es.md"):
        path = built(site, page)
        links = Page(path).leads_to
        for result in results:
            (link,) = [link for link in links if link.rpartition("/")[2] == result.name]
            assert (path.parent / link).read_bytes() == result.read_bytes()
            command = json.loads(result.read_text("utf-8"))["command"]
            assert html.escape(command, quote=False) in path.read_text("utf-8")
        assert "{" not in re.sub(r"(?s)<(script|style).*?</\1>", "", path.read_text("utf-8"))


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_a_readme_names_only_what_exists(readme: Path) -> None:
    text = readme.read_text("utf-8")
    verbs = set(get_command(build_app()).commands)
    assert set(re.findall(r"^\| `x1 (\w+)` \|", text, re.MULTILINE)) == verbs
    assert set(re.findall(r"\bx1 ([a-z]+)", text)) <= verbs
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"rehearsal", "test"} <= set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_no_number_is_left_to_fill_in(readme: Path) -> None:
    assert re.findall(r"@@\w+@@", readme.read_text("utf-8")) == []


def test_the_readmes_cost_sentence_is_what_the_plan_says() -> None:
    """If it is not, put into both files what the command printed just above it prints now."""
    command = "x1 plan --preset x1-50m --price-usd-per-hour 1.39"
    done = subprocess.run(
        [sys.executable, "-c", "from x1.cli import main; main()", *command.split()[1:], "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    plan = json.loads(done.stdout)
    for readme, language in zip(READMES, ("en", "es"), strict=True):
        assert f"{command}\n```\n\n> {plan['sentence'][language]}\n" in readme.read_text("utf-8")
