"""What the site's build does beyond its plugins.

It fills the page of measured results from the files in docs/measured/. The page holds a template
between two comments, which is repeated for every file; a line whose {field} a file lacks is left
out. So the page's words are in the page, in its own language.

It makes the home page's language switch relative, so that the site works under any path.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

MEASURED = Path(__file__).parent / "measured"
TEMPLATE = re.compile(r"<!-- for each result -->\n(.*)<!-- end -->", re.DOTALL)
FIELD = re.compile(r"\{(\w+)\}")
REQUIRED = ("what", "command", "hardware", "date")

log = logging.getLogger("mkdocs.hooks.measured")  # under "mkdocs", so that --strict counts it


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its template filled, in the language its file name ends in."""
    spanish = page.file.src_uri.endswith(".es.md")

    def results(template: re.Match[str]) -> str:
        return "\n".join(
            fill(template[1], fields(path, spanish)) for path in sorted(MEASURED.glob("*.json"))
        )

    return TEMPLATE.sub(results, markdown)


@event_priority(-200)  # after mkdocs-static-i18n, which leaves the home page's links absolute
def on_page_context(context: Any, page: Any, config: Any, nav: Any) -> Any:
    """The language switch of this page: relative links to its twins."""
    for language in config.extra.alternate:
        language["link"] = page.file.alternates[language["lang"]].url
    return context


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """No 404 page: it is one for both languages, and knows neither its reader's nor its depth."""
    return "" if template_name == "404.html" else output


def fields(path: Path, spanish: bool) -> dict[str, str]:
    """What one result says of itself; in Spanish FIELD_es, or else the English, marked as such."""
    record = json.loads(path.read_text("utf-8"))
    for name in REQUIRED:
        if not record.get(name):
            log.warning("%s does not say its '%s'", path, name)
    said = {"name": path.stem}
    for name in ("what", "provenance", "hardware", "command", "date"):
        if spanish and record.get(f"{name}_es"):
            said[name] = one_line(record[f"{name}_es"])
        elif record.get(name):
            text = one_line(record[name])
            prose = name not in ("command", "date")
            said[name] = f'<span lang="en">{text}</span>' if spanish and prose else text
    return said


def one_line(value: Any) -> str:
    """A field as text: a record as `key: value` pairs."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {part}" for key, part in value.items())
    return str(value)


def fill(template: str, said: dict[str, str]) -> str:
    """The template's lines, without those that need a field the result does not have."""
    lines = [line for line in template.split("\n") if set(FIELD.findall(line)) <= said.keys()]
    return FIELD.sub(lambda field: said[field[1]], "\n".join(lines))
