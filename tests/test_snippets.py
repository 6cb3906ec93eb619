"""What a page of the site shows as a snippet's output is what the snippet prints."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SNIPPET = re.compile(
    r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
# A chapter's Spanish twin has the same code and output, which x1.course.parity holds it to.
CHAPTERS = [page for page in sorted(ROOT.glob("theory/*.md")) if ".es." not in page.name]
PAGES = [
    page
    for page in [*sorted(DOCS.rglob("*.md")), *CHAPTERS]
    if "```python" in page.read_text("utf-8")
]


def printed(snippets: list[str]) -> list[str]:
    """What each of a page's snippets prints, run one after the other in one fresh process."""
    mark = "\x1e"
    code = f"print({mark!r}, end='')\n".join(snippets)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(mark)


def test_there_are_pages_with_snippets() -> None:
    assert {"scale.md", "configuration.md"} <= {page.name for page in PAGES}
    assert {"00-motivation.md", "02-compute-and-cost.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_snippets_print_what_the_page_shows(page: Path) -> None:
    found = SNIPPET.findall(page.read_text("utf-8"))
    assert printed([code for code, _ in found]) == [output for _, output in found]


NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
CITED = {
    "300": "317 and 313, rounded",
    "128": "1408 is a multiple of it",
    "3.35": "the brief's own prediction",
    "0.2": "the same",
    "46": "the sweep: parameters, in millions",
    "4.3": "the sweep: tokens, in billions",
    "2502.15938": "a paper",
}


def test_the_configurations_prose_has_no_number_that_no_snippet_has() -> None:
    page = (DOCS / "configuration.md").read_text("utf-8")
    shown = "".join(code.replace("_", ",") + output for code, output in SNIPPET.findall(page))
    prose = re.sub(r"\]\([^)]*\)", "]", SNIPPET.sub("", page))
    assert set(NUMBER.findall(prose)) - set(NUMBER.findall(shown)) == set(CITED)
