"""What the site's build does beyond its plugins.

It fills the page of measured results from the files in docs/measured/. The page holds a template
between two comments, which is repeated for every file; a line whose {field} a file lacks is left
out. So the page's words are in the page, in its own language.

In the same way it fills a page's tables from the lists in a JSON file beside it, one line a row.

It puts the audit of a field report, from docs/cases.json, where a page has `<!-- audit of ID -->`.

It turns a chapter's links, written for theory/ beside docs/, into links inside docs/.

It makes the home page's language switch relative, so that the site works under any path.
"""

import html
import json
import logging
import re
from pathlib import Path
from typing import Any

import hooks_measured
from mkdocs.plugins import event_priority

MEASURED = Path(__file__).parent / "measured"
TEMPLATE = re.compile(r"<!-- for each result -->\n(.*)<!-- end -->", re.DOTALL)
ROWS = re.compile(r"<!-- for each (\w+) in ([\w/-]+\.json) -->\n(.*?\n)<!-- end -->\n", re.DOTALL)
FIELD = re.compile(r"\{(\w+)\}")
AUDITED = Path(__file__).parent / "cases.json"
AUDIT = re.compile(r"<!-- audit of ([\w-]+) -->")
REQUIRED = ("what", "command", "hardware", "date")

CHAPTERS = "chapters/"  # a link to theory/, for the plugins want every page inside docs/
FROM_THEORY = re.compile(r"\]\((?:\.\./docs/)?([\w/-]+?)(?:\.es)?(\.(?:md|svg)[)#])")

log = logging.getLogger("mkdocs.hooks.measured")  # under "mkdocs", so that --strict counts it


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page with its template filled, in the language its file name ends in."""
    spanish = page.file.src_uri.endswith(".es.md")
    if page.file.src_uri.startswith(CHAPTERS):
        markdown = FROM_THEORY.sub(into_docs, markdown)

    def results(template: re.Match[str]) -> str:
        return "\n".join(
            fill(template[1], fields(path, spanish)) for path in sorted(MEASURED.glob("*.json"))
        )

    def rows(template: re.Match[str]) -> str:
        path = Path(__file__).parent / template[2]
        try:
            return "".join(
                fill(template[3], row) for row in json.loads(path.read_text("utf-8"))[template[1]]
            )
        except (OSError, KeyError) as error:
            log.warning("%s: no table of '%s': %r", page.file.src_uri, template[1], error)
            return ""

    return audits(ROWS.sub(rows, TEMPLATE.sub(results, markdown)), "es" if spanish else "en")


def into_docs(link: re.Match[str]) -> str:
    """A chapter's link as the site resolves it: from docs/chapters/, to a page in any language."""
    up = "../" if "../docs/" in link[0] else ""
    return f"]({up}{link[1]}{link[2]}"


@event_priority(-200)  # after mkdocs-static-i18n, which leaves the home page's links absolute
def on_page_context(context: Any, page: Any, config: Any, nav: Any) -> Any:
    """The language switch of this page: relative links to its twins."""
    for language in config.extra.alternate:
        language["link"] = page.file.alternates[language["lang"]].url
    return context


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme's script asks for a sitemap beside each page that it finds by this very attribute;
    with relative links there is none. The space changes nothing for anybody else.
    """
    return output.replace('<link rel="alternate" ', '<link rel="alternate " ')


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
    said["plots"] = hooks_measured.shown(path, "es" if spanish else "en")
    return said


def one_line(value: Any) -> str:
    """A field as text: a record as `key: value` pairs."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {part}" for key, part in value.items() if part is not None)
    return str(value)


def fill(template: str, said: dict[str, str]) -> str:
    """The template's lines, without those that need a field the result does not have."""
    lines = [line for line in template.split("\n") if set(FIELD.findall(line)) <= said.keys()]
    return FIELD.sub(lambda field: str(said[field[1]]), "\n".join(lines))


def audits(markdown: str, language: str) -> str:
    """The page with each report's audit as a table, a claim's reason in a row below it."""
    if not AUDIT.search(markdown):
        return markdown
    record = json.loads(AUDITED.read_text("utf-8"))
    tables = {
        case["id"]: audit_table(case, record["columns"][language], language)
        for case in record["cases"]
    }

    def table(place: re.Match[str]) -> str:
        if place[1] not in tables:
            log.warning("%s has no report '%s'", AUDITED, place[1])
        return tables.get(place[1], "")

    return AUDIT.sub(table, markdown)


def audit_table(case: Any, columns: dict[str, str], language: str) -> str:
    """One report's audit as HTML: Markdown's tables have no cell across the columns."""

    def across(tag: str, *lines: str) -> str:
        inside = "<br>".join(html.escape(line) for line in lines)
        return f'<tr><{tag} colspan="{len(columns)}">{inside}</{tag}></tr>'

    def cells(tag: str, words: dict[str, str]) -> str:
        inside = "".join(f"<{tag}>{html.escape(words[name])}</{tag}>" for name in columns)
        return f"<tr>{inside}</tr>"

    rows = []
    for phase in case["phases"]:
        rows.append(across("th", phase["title"][language]))
        for finding in phase["findings"]:
            words = finding["text"][language]
            rows += [cells("td", words), across("td", words["reason"], *words["also"])]
    lines = [
        f"<table><thead>{cells('th', columns)}</thead>",
        "<tbody>",
        *rows,
        "</tbody></table>",
        "",
        case["tally"][language],
    ]
    return "\n".join(lines)
