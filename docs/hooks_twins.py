"""Every page has its twin, and neither has moved on without the other.

mkdocs-static-i18n serves the English page in place of a missing Spanish one, without a word. Here
a missing twin is a warning that names it, and so is a section that changed in one language only:
what `x1 author check` says of parity.lock. `mkdocs build --strict` fails on either.
"""

import logging
from pathlib import Path
from typing import Any

from x1.course import parity
from x1.text import UserError

log = logging.getLogger("mkdocs.hooks.twins")  # under "mkdocs", so that --strict counts it


def on_pre_build(config: Any) -> None:
    if not config.plugins["i18n"].is_default_language_build:
        return  # each build holds one for each language
    root = Path(config.config_file_path).parent
    missing = without_twin(root)
    for page, twin in missing:
        log.warning("%s has no twin: %s is missing", page, twin)
    for sentence in () if missing else stale(root):
        log.warning("%s", sentence)


def without_twin(root: Path) -> list[tuple[Path, Path]]:
    """The pages of one language only, each with the file that is not there."""
    found = []
    for folder in ("docs", "theory"):
        for page in sorted((root / folder).rglob("*.md")):
            if page.name.endswith(".es.md"):
                twin = page.with_name(page.name.removesuffix(".es.md") + ".md")
            else:
                twin = page.with_suffix(".es.md")
            if not twin.is_file():
                found.append((page.relative_to(root), twin.relative_to(root)))
    return found


def stale(root: Path) -> list[str]:
    """What changed in one language and not in the other, one sentence each."""
    try:
        return parity.drifted(list(parity.all_pairs(root)), parity.read_lock(root))
    except UserError as error:
        return [str(error)]
