"""Each language searches its own pages: one index a language, in place of one for both.

mkdocs-static-i18n gathers every page in one index, where a function's name is found twice and a
Spanish reader is sent to English pages. The theme looks for the index below what a page calls its
base, so Spanish pages get es/ for a base and es/ an index.
"""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

INDEX = Path("search/search_index.json")
BASE = re.compile(r'"base": "([./]+)"')


def on_post_page(output: str, page: Any, config: Any) -> str:
    if not page.file.src_uri.endswith(".es.md"):
        return output
    return BASE.sub(lambda base: f'"base": "{one_less(base[1])}"', output, count=1)


def one_less(base: str) -> str:
    """The way to es/ where the way to the site's root is `base`: ".." becomes "."."""
    return "/".join(base.split("/")[1:]) or "."


@event_priority(-200)  # after mkdocs-static-i18n has written the index of both
def on_post_build(config: Any) -> None:
    if not config.plugins["i18n"].building:  # the build that holds the one for each language
        divide(Path(config.site_dir))


def divide(site: Path) -> None:
    """One index for the pages in es/, with places that begin there, and one for the rest."""
    whole = json.loads((site / INDEX).read_text("utf-8"))
    spanish = [entry for entry in whole["docs"] if entry["location"].startswith("es/")]
    english = [entry for entry in whole["docs"] if not entry["location"].startswith("es/")]
    for entry in spanish:
        entry["location"] = entry["location"].removeprefix("es/")
    # What reads the same in both, docstrings above all, the plugin leaves out of the second.
    there = {entry["location"] for entry in spanish}
    pages = {location.partition("#")[0] for location in there}
    spanish += [
        entry
        for entry in english
        if entry["location"] not in there and entry["location"].partition("#")[0] in pages
    ]
    for folder, language, entries in ((site, "en", english), (site / "es", "es", spanish)):
        index = {"config": whole["config"] | {"lang": [language]}, "docs": entries}
        (folder / INDEX).parent.mkdir(parents=True, exist_ok=True)
        (folder / INDEX).write_text(
            json.dumps(index, ensure_ascii=False, separators=(",", ":")), "utf-8"
        )
