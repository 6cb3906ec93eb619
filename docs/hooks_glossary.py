"""The glossary: its page from docs/glossary.toml, and a chapter's first use of a term as a link.

A link that a page writes itself, `[text](../docs/glossary.md#mfu)`, is checked by MkDocs like any
other: a term that is not there fails the strict build, which names page and anchor.
"""

import logging
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from markdown import Extension, Markdown
from markdown.treeprocessors import Treeprocessor

SOURCE = Path(__file__).with_name("glossary.toml")
PAGE = "glossary.md"
TERMS = "<!-- terms -->"
LINKED = ("chapters/", "labs/")
AFTER_INLINE, BEFORE_LINKS_RESOLVE = 20, 0
SHOWN_IN = {"p", "li", "td", "em", "blockquote"}  # not in headings, code, links or bold claims

log = logging.getLogger("mkdocs.hooks.glossary")  # under "mkdocs", so that --strict counts it


@cache
def entries() -> dict[str, Any]:
    return tomllib.loads(SOURCE.read_text("utf-8"))


def faults(table: dict[str, Any]) -> list[str]:
    """What is wrong with a glossary: one sentence each."""
    found = []
    for key, entry in table.items():
        for language in ("en", "es"):
            for field in ("term", "text"):
                if not entry.get(language, {}).get(field):
                    found.append(f"'{key}' has no {field} in '{language}'")
        if ("forms" in entry.get("en", {})) != ("forms" in entry.get("es", {})):
            found.append(f"'{key}' has forms in one language only")
        found += [f"'{key}' says see '{name}', which is no term" for name in entry.get("see", [])
                  if name not in table]  # fmt: skip
    return found


@cache
def pattern(language: str) -> tuple[re.Pattern[str], dict[str, str]]:
    """What finds any form of any term, and the term of each form; longer forms come first."""
    of = {}
    for key, entry in entries().items():
        for form in entry[language].get("forms", []):
            of[form if form != form.lower() else form.lower()] = key
    forms = sorted(of, key=len, reverse=True)
    parts = [
        re.escape(form) if form != form.lower() else f"(?i:{re.escape(form)})" for form in forms
    ]
    return re.compile(rf"(?<![\w-])(?:{'|'.join(parts)})(?![\w-])"), of


class FirstUse(Treeprocessor):
    """Links the first use of each term in a page's sentences."""

    def __init__(self, md: Markdown, glossary: "Glossary") -> None:
        super().__init__(md)
        self.glossary = glossary

    def run(self, root: Element) -> None:
        if self.glossary.language is not None:
            self.used: set[str] = set()
            for element in list(root):
                self.visit(element)

    def visit(self, element: Element) -> None:
        if element.tag in ("a", "code", "pre", "strong", "th") or re.fullmatch(r"h\d", element.tag):
            return
        if element.get("class") == "facts":
            return
        if element.tag in SHOWN_IN:
            self.link_text(element)
        for child in list(element):
            if child.get("class") != "term":
                self.visit(child)
            if element.tag in SHOWN_IN:
                self.link_tail(element, child)

    def link_text(self, element: Element) -> None:
        element.text, links = self.split(element.text)
        for place, link in enumerate(links):
            element.insert(place, link)

    def link_tail(self, parent: Element, child: Element) -> None:
        child.tail, links = self.split(child.tail)
        after = list(parent).index(child) + 1
        for place, link in enumerate(links, after):
            parent.insert(place, link)

    def split(self, text: str | None) -> tuple[str | None, list[Element]]:
        """The text before the first term not used yet, and a link for each, its tail behind it."""
        language = str(self.glossary.language)
        finder, of = pattern(language)
        links: list[Element] = []
        begin = 0
        for match in finder.finditer(text or ""):
            key = of.get(match[0]) or of[match[0].lower()]
            if key in self.used:
                continue
            self.used.add(key)
            before = str(text)[begin : match.start()]
            if links:
                links[-1].tail = before
            else:
                head = before
            link = Element("a", {"href": f"../{PAGE}#{key}", "class": "term"})
            link.set("title", entries()[key][language]["text"])
            link.text = match[0]
            links.append(link)
            begin = match.end()
        if not links:
            return text, []
        links[-1].tail = str(text)[begin:]
        return head, links


class Glossary(Extension):
    """The Markdown extension; `language` is that of the page at hand, None where none is linked."""

    language: str | None = None

    def extendMarkdown(self, md: Markdown) -> None:
        between = (AFTER_INLINE + BEFORE_LINKS_RESOLVE) / 2
        md.treeprocessors.register(FirstUse(md, self), "glossary", between)


GLOSSARY = Glossary()


def on_config(config: Any) -> Any:
    if GLOSSARY not in config.markdown_extensions:
        config.markdown_extensions.append(GLOSSARY)
        for fault in faults(entries()):
            log.warning("%s: %s", SOURCE, fault)
    return config


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    uri = page.file.src_uri
    language = "es" if uri.endswith(".es.md") else "en"
    GLOSSARY.language = language if uri.startswith(LINKED) else None
    return markdown.replace(TERMS, listed(language))


def listed(language: str) -> str:
    """Every term in alphabetical order, with its twin and what to read next."""
    other = "en" if language == "es" else "es"
    said = {"en": ("In Spanish", "See"), "es": ("En inglés", "Véase")}[language]
    table = entries()
    parts = []
    for key in sorted(table, key=lambda key: plain(table[key][language]["term"])):
        here, there = table[key][language], table[key][other]
        lines = [f"## {here['term']} {{#{key}}}", "", here["text"], ""]
        notes = []
        if here["term"] != there["term"]:
            notes.append(f'{said[0]}: <span lang="{other}">{there["term"]}</span>.')
        seen = [name for name in table[key].get("see", []) if name in table]
        if seen:
            links = ", ".join(f"[{table[name][language]['term']}](#{name})" for name in seen)
            notes.append(f"{said[1]}: {links}.")
        if notes:
            lines += [f"{' '.join(notes)}", "{ .notes }", ""]
        parts.append("\n".join(lines))
    return "\n".join(['<div class="terms" markdown="1">\n', *parts, "</div>"])


def plain(term: str) -> str:
    """A term as it is sorted: without case and accents."""
    return term.lower().translate(str.maketrans("áéíóúüñ", "aeiouun"))
