"""The stages: what is written of each, the map on the home page, the labs as pages.

A stage is a chapter in theory/ and a lab in labs/ of the same name. What is not there in both
languages is not advertised, nor is a lab without its chapter: the navigation and the map are made
from what is.

A lab's page is its notebook, the one without solutions, as Markdown: so its links are checked, its
words are found by the search and its formulas are drawn as on every other page.
"""

import html
import json
import logging
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

CHAPTERS, LABS = "chapters", "labs"
SECTION = "Stages"  # the part of the navigation that is made here
NOTEBOOKS = {"en": "lab.ipynb", "es": "lab.es.ipynb"}
WORDS_A_MINUTE = 200
PROSE = re.compile(r"^```.*?^```$|^\|.*?$|<!--.*?-->", re.MULTILINE | re.DOTALL)  # what it is not
LAB_HEADING = re.compile(r"^## .*\{#lab\}$", re.MULTILINE)
MAP = "<!-- map of the stages -->"
TOTALS = re.compile(r"<!-- totals: (.*?) -->")
SENTENCE = "<!-- cost sentence -->"
FROM_LAB = re.compile(r"\]\(\.\./\.\./(theory|docs)/([\w/-]+?)(?:\.es)?\.(md|svg)([)#])")
TO_PATH = re.compile(r"\]\((?:\.\./)+HIRING_PATH(?:\.es)?\.md")
TO_LAB = re.compile(r"\]\(\.\./labs/([\w-]+)/lab(?:\.es)?\.ipynb\)")

log = logging.getLogger("mkdocs.hooks.stages")  # under "mkdocs", so that --strict counts it


@dataclass(frozen=True)
class Stage:
    """`titles` and `lab` are by language; either is empty where that half is not written."""

    name: str
    titles: dict[str, str]
    minutes: dict[str, int]  # to read the chapter
    lab: dict[str, Any]

    @property
    def number(self) -> int:
        return int(self.name[:2])

    @property
    def pages(self) -> list[str]:
        chapter = [f"{CHAPTERS}/{self.name}.md"] if self.titles else []
        return chapter + ([f"{LABS}/{self.name}.md"] if self.lab else [])


def root_of(config: Any) -> Path:
    return Path(config.config_file_path).parent


def stages(root: Path) -> list[Stage]:
    """Those whose chapter is there in both languages, in order; with the lab if it is there too."""
    names = {
        path.stem for path in (root / "theory").glob("[0-9][0-9]-*.md") if "." not in path.stem
    }
    names |= {path.parent.name for path in (root / LABS).glob("[0-9][0-9]-*/lab.toml")}
    found = []
    for name in sorted(names):
        twins = {"en": root / f"theory/{name}.md", "es": root / f"theory/{name}.es.md"}
        texts = {lang: path.read_text("utf-8") for lang, path in twins.items() if path.is_file()}
        texts = texts if len(texts) == len(twins) else {}
        lab = root / LABS / name
        whole = texts and all((lab / file).is_file() for file in ("lab.toml", *NOTEBOOKS.values()))
        stage = Stage(
            name,
            {lang: heading(text) for lang, text in texts.items()},
            {lang: minutes_to_read(text) for lang, text in texts.items()},
            tomllib.loads((lab / "lab.toml").read_text("utf-8")) if whole else {},
        )
        if stage.pages:
            found.append(stage)
    return found


def heading(markdown: str) -> str:
    """A page's first line, without its marks."""
    return re.sub(r"^# | *\{#[\w-]+\}$", "", markdown.split("\n", 1)[0])


def minutes_to_read(markdown: str) -> int:
    """At 200 words a minute, code and tables not counted."""
    return max(1, round(len(PROSE.sub("", markdown).split()) / WORDS_A_MINUTE))


@cache
def words(language: str) -> dict[str, str]:
    """What the site says of its own, outside its pages."""
    table = tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))
    return {key: said[language] for key, said in table.items()}


def on_config(config: Any) -> Any:
    """The navigation's part on the stages."""
    pages = [page for stage in stages(root_of(config)) for page in stage.pages]
    for entry in config.nav or []:
        if isinstance(entry, dict) and SECTION in entry:
            entry[SECTION] = pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """A page for each lab in each language, beside those that are files in docs/."""
    for stage in stages(root_of(config)):
        for suffix in (".md", ".es.md") if stage.lab else ():
            uri = f"{LABS}/{stage.name}{suffix}"
            files.append(File(uri, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


def on_pre_page(page: Any, config: Any, files: Any) -> Any:
    uri, language = page.file.src_uri, language_of(page)
    if uri.startswith(f"{LABS}/"):
        name = Path(uri).name.split(".")[0]
        notebook = root_of(config) / LABS / name / NOTEBOOKS[language]
        try:
            text = lab_page(json.loads(notebook.read_text("utf-8")), name, language)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            log.warning("%s is not a notebook: %r", notebook, error)
            text = f"# {name}"
        page.file.content_string = text
    return page


@event_priority(-200)  # after mkdocs-static-i18n has translated the navigation
def on_nav(nav: Any, config: Any, files: Any) -> Any:
    """A chapter is listed with its number; a lab as a lab."""
    there = {stage.name: stage for stage in stages(root_of(config))}
    for page in nav.pages:
        folder, _, name = page.file.src_uri.partition("/")
        stage = there.get(name.split(".")[0])
        language = language_of(page)
        if stage and folder == CHAPTERS:
            page.title = f"{stage.number:02d} · {stage.titles[language]}"
        elif stage and folder == LABS:
            said = {"number": stage.number, "title": stage.lab["title"][language]}
            page.title = words(language)["lab_title"].format(**said)
    return nav


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    root, language = root_of(config), language_of(page)
    if page.file.src_uri.startswith(f"{CHAPTERS}/"):
        name = Path(page.file.src_uri).name.split(".")[0]
        stage = next((stage for stage in stages(root) if stage.name == name), None)
        if stage is None:
            return markdown  # its twin is missing, and hooks_twins.py says so
        markdown = TO_PATH.sub("](../hiring-path.md", TO_LAB.sub(r"](../labs/\1.md)", markdown))
        return chapter_page(markdown, stage, language)
    if MAP in markdown:
        page.meta["hide"] = ["navigation", "toc"]  # the map is both
        markdown = markdown.replace(MAP, map_of(stages(root), language))
        markdown = TOTALS.sub(lambda said: totals(stages(root), said[1], language), markdown)
        markdown = markdown.replace(SENTENCE, cost_sentence(root, language))
    return markdown


def language_of(page: Any) -> str:
    return "es" if page.file.src_uri.endswith(".es.md") else "en"


def chapter_page(markdown: str, stage: Stage, language: str) -> str:
    """A chapter with its time and its lab's below the title, and the way into the lab."""
    say = words(language)
    facts = [say["reading"].format(minutes=stage.minutes[language])]
    if stage.lab:
        lab = f"{say['lab']}: {stage.lab['title'][language]}"
        facts += [f"[{lab}](../{LABS}/{stage.name}.md)", *lab_facts(stage, language)]
        way_in = (
            f"[{say['open_lab']}](../{LABS}/{stage.name}.md){{ .md-button }}\n\n"
            f"{commands(stage.number, language)}"
        )
        if LAB_HEADING.search(markdown):
            markdown = LAB_HEADING.sub(lambda line: f"{line[0]}\n\n{way_in}", markdown)
        else:
            markdown = f"{markdown}\n\n{way_in}\n"
    title, _, rest = markdown.partition("\n")
    return f"{title}\n\n{' · '.join(facts)}\n{{ .facts }}\n{rest}"


def lab_facts(stage: Stage, language: str) -> list[str]:
    say, lab = words(language), stage.lab
    return [
        say["compute"].format(minutes=f"{lab['minutes']:g}"),
        f"${lab['cost_usd']:.2f}",
    ]


def commands(number: int, language: str) -> str:
    """Begin the lab and have it graded."""
    option = "" if language == "en" else f" --lang {language}"
    return f"```bash\nx1 start {number}{option}\nx1 grade {number}\n```"


def lab_page(notebook: dict[str, Any], name: str, language: str) -> str:
    """A notebook as Markdown: an exercise's cell under its name, links led into the site.

    Raises KeyError or TypeError for what is no notebook.
    """
    say = words(language)
    parts: list[str] = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(TO_PATH.sub("](../hiring-path.md", FROM_LAB.sub(into_docs, text)))
        else:
            exercise = cell["metadata"].get("exercise")
            title = f' title="{say["exercise"]} · {exercise}"' if exercise else ""
            parts.append(f"````{{ .python .cell{title} }}\n{text}\n````")
        if len(parts) == 1:  # under the notebook's own head
            parts += [say["lab_intro"], commands(int(name[:2]), language)]
    return "\n\n".join(parts) + "\n"


def into_docs(link: re.Match[str]) -> str:
    """A lab's link to a chapter or a page as the site resolves it, in any language."""
    folder = f"../{CHAPTERS}/" if link[1] == "theory" else "../"
    return f"]({folder}{link[2]}.{link[3]}{link[4]}"


def map_of(found: list[Stage], language: str) -> str:
    """The stages as a list: the question, the lab, and what each takes."""
    say = words(language)
    items = []
    for stage in found:
        lines = []
        if stage.titles:
            lines.append(f"[{stage.titles[language]}]({CHAPTERS}/{stage.name}.md){{ .question }}")
            reading = say["reading"].format(minutes=stage.minutes[language])
            lines.append(f"<span>{reading}</span>")
        if stage.lab:
            title = stage.lab["title"][language]
            lines.append(f"[{say['lab']}: {title}]({LABS}/{stage.name}.md){{ .lab }}")
            lines.append(f"<span>{' · '.join(lab_facts(stage, language))}</span>")
        body = "\n".join(lines)
        items.append(f'<li markdown="block" data-number="{stage.number:02d}">\n\n{body}\n\n</li>')
    return '<ol class="stages" markdown="1">\n' + "\n".join(items) + "\n</ol>"


def totals(found: list[Stage], sentence: str, language: str) -> str:
    """A sentence of the home page with what all stages together take."""
    labs = [stage.lab for stage in found if stage.lab]
    return sentence.format(
        stages=len(found),
        labs=len(labs),
        reading=sum(stage.minutes.get(language, 0) for stage in found),
        compute=f"{sum(lab['minutes'] for lab in labs):g}",
        usd=f"${sum(lab['cost_usd'] for lab in labs):.2f}",
    )


def cost_sentence(root: Path, language: str) -> str:
    """The plan's sentence, where the README quotes it (and a test holds it to the plan)."""
    readme = root / ("README.es.md" if language == "es" else "README.md")
    quoted = re.findall(r"^> (.*A100.*)$", readme.read_text("utf-8"), re.MULTILINE)
    if len(quoted) != 1:
        log.warning("%s quotes %d cost sentences, not one", readme, len(quoted))
        return ""
    return f'<p class="sentence">{html.escape(quoted[0])}</p>'


def on_post_build(config: Any) -> None:
    """No page is a notebook's raw JSON, which one plugin's failure once published unnoticed."""
    for page in sorted(Path(config.site_dir).rglob("*.html")):
        text = page.read_text("utf-8")
        if text.lstrip().startswith("{") or '"nbformat"' in text:
            log.warning("%s is the raw JSON of a notebook", page)
