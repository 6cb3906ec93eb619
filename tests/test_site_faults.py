"""What must not be published fails the build, which says what and where: faults planted in a small
site that has this one's hooks and settings.
"""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import hooks_stages
import pytest

ROOT = Path(__file__).parents[1]
LAB = {"en": "lab.ipynb", "es": "lab.es.ipynb"}
PAGES = {
    "docs/index": "# Home {#top}\n\n<!-- map of the stages -->\n",
    "docs/glossary": "# Glossary {#glossary}\n\n<!-- terms -->\n",
    "theory/00-small": "# Small? {#small}\n\nSo $x^2$, see [MFU](../docs/glossary.md#mfu).\n\n"
    "## The lab {#lab}\n\nIt is short.\n",
}
NAV = """nav:
  - Home: index.md
  - Stages: []
  - Glossary: glossary.md
"""


def notebook(prose: str) -> str:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": ["# 00 · Small\n"]},
        {"cell_type": "markdown", "metadata": {}, "source": [prose]},
        {"cell_type": "code", "metadata": {"exercise": "one"}, "source": ["# exercise: one\n"]},
    ]
    return json.dumps({"cells": cells, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A repository with a home page, a glossary, one chapter and one lab, in both languages."""
    for folder in ("docs", "theory", "labs/00-small"):
        (tmp_path / folder).mkdir(parents=True)
    docs = tmp_path / "docs"
    for file in [*(ROOT / "docs").glob("hooks*.py"), *(ROOT / "docs").glob("*.toml")]:
        shutil.copy(file, docs)
    for folder in ("theme", "stylesheets"):
        shutil.copytree(ROOT / "docs" / folder, docs / folder)
    (docs / "chapters").symlink_to("../theory")
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    settings = re.sub(r"^  - docs/hooks_(planner|reference)\.py\n", "", settings, flags=re.M)
    (tmp_path / "mkdocs.yml").write_text(settings[: settings.index("nav:\n")] + NAV)
    for name, text in PAGES.items():
        for suffix in (".md", ".es.md"):
            (tmp_path / f"{name}{suffix}").write_text(text)
    shutil.copy(ROOT / "labs/00-motivation/lab.toml", tmp_path / "labs/00-small")
    for file in LAB.values():
        text = notebook("Read [the chapter](../../theory/00-small.md#small).")
        (tmp_path / "labs/00-small" / file).write_text(text)
    (tmp_path / "README.md").write_text("> 1× A100\n")
    (tmp_path / "README.es.md").write_text("> 1× A100\n")
    return tmp_path


def build(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(root / "site")],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


def add(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text('utf-8')}\n{text}\n", "utf-8")


def test_a_sound_site_builds_and_each_planted_fault_is_named(small: Path) -> None:
    done = build(small)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    lab = (small / "site/labs/00-small/index.html").read_text("utf-8")
    assert 'href="../../chapters/00-small/#small"' in lab  # from the notebook's own link

    theory, lab_folder = small / "theory", small / "labs/00-small"
    add(theory / "00-small.md", r"A formula: $\nocommand{x}$.")
    add(theory / "00-small.es.md", "A link: [there](nowhere.md).")
    add(small / "docs/index.md", "[A term](glossary.md#no-such-term)")
    (lab_folder / "lab.ipynb").write_text(notebook("Read [it](../../theory/99-none.md)."))
    (lab_folder / "lab.es.ipynb").write_text('{"not": "a notebook"}')
    glossary = small / "docs/glossary.toml"
    table = glossary.read_text("utf-8")
    glossary.write_text(table.replace('see = ["flops"]', 'see = ["flop"]', 1), "utf-8")
    named = [
        r"chapters/00-small\.md: the formula \$\\nocommand\{x\}\$ cannot be rendered",
        r"'chapters/00-small\.es\.md' contains a link 'nowhere\.md'",
        r"'index\.md' contains a link 'glossary\.md#no-such-term'.* anchor '#no-such-term'",
        r"'labs/00-small\.md' contains a link '\.\./chapters/99-none\.md'",
        r"labs/00-small/lab\.es\.ipynb is not a notebook: KeyError\('cells'\)",
        r"glossary\.toml: 'mfu' says see 'flop', which is no term",
    ]
    failed = build(small)
    assert failed.returncode == 1
    for fault in named:
        assert len(re.findall(rf"WARNING.*{fault}", failed.stderr)) == 1, (fault, failed.stderr)
    assert failed.stderr.count("WARNING") == len(named), failed.stderr


def test_a_missing_twin_and_a_stale_one_are_named(small: Path) -> None:
    from x1.course import parity

    parity.write_lock(small, list(parity.all_pairs(small)))
    assert "# Small" in (small / "theory/00-small.md").read_text("utf-8")
    add(small / "theory/00-small.md", "A sentence more.")
    failed = build(small)
    assert failed.returncode == 1
    assert re.search(r"WARNING.*theory/00-small\.md#lab", failed.stderr), failed.stderr
    for name in ("docs/index", "theory/00-small"):
        (small / f"{name}.es.md").unlink()
    failed = build(small)
    assert failed.returncode == 1
    for name in ("docs/index", "theory/00-small"):
        missing = rf"WARNING.*{name}\.md has no twin: {name}\.es\.md is missing"
        assert re.search(missing, failed.stderr), failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_notebooks_raw_json_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However it came to be published: a plugin once did it under --strict."""
    (tmp_path / "index.html").write_text("<html>fine</html>")
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab/index.html").write_text(notebook("x"))
    with caplog.at_level(logging.WARNING):
        hooks_stages.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
    assert [record.message for record in caplog.records] == [
        f"{tmp_path}/lab/index.html is the raw JSON of a notebook"
    ]
    assert caplog.records[0].name.startswith("mkdocs.")  # so that --strict counts it
