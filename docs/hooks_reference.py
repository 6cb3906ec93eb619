"""The API reference, from the docstrings in src/x1: one page for each entry of reference.toml.

The source is read, never imported: the site builds without PyTorch. What has a docstring and no
leading underscore is public. The words of the page are in its language, the docstrings in English.
"""

import ast
import html
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

FOLDER = "reference"
INDEX = "<!-- pages of the reference -->"
PACKAGE = "x1"
LONGEST_LINE = 80
INTRO = {
    "en": "{text} Written from the docstrings when the site is built.",
    "es": "{text} Se escribe a partir de los docstrings al construir el sitio; los docstrings están"
    " en inglés.",
}


@cache
def groups() -> list[dict[str, Any]]:
    return list(
        tomllib.loads(Path(__file__).with_name("reference.toml").read_text("utf-8"))["pages"]
    )


def modules(source: Path) -> dict[str, Path]:
    """Every module below `source` by its dotted name, without the package's, from a to z."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        inside = path.relative_to(source).with_suffix("")
        name = ".".join(part for part in inside.parts if part != "__init__")
        if name and ast.get_docstring(ast.parse(path.read_text("utf-8"))):
            found[name] = path
    return found


@cache
def members(source: Path) -> dict[str, dict[str, Path]]:
    """The modules of each page, by its id."""
    rest = modules(source)
    found: dict[str, dict[str, Path]] = {}
    for group in groups():
        names = [
            name
            for wanted in group["modules"]
            for name in rest
            if name == wanted or name.startswith(f"{wanted}.")
        ]
        found[group["id"]] = {name: rest.pop(name) for name in names}
    found[groups()[-1]["id"]] |= rest
    return found


def source_of(config: Any) -> Path:
    return Path(config.config_file_path).parent / "src" / PACKAGE


def on_config(config: Any) -> Any:
    """The pages' place in the navigation: after the reference's own page."""
    members.cache_clear()  # `mkdocs serve` builds again when the source has changed
    pages = [f"{FOLDER}/{group['id']}.md" for group in groups()]
    for entry in config.nav or []:
        for part in entry.values() if isinstance(entry, dict) else ():
            if isinstance(part, list) and any(is_index(page) for page in part):
                part[:] = [page for page in part if page not in pages]
                at = next(place for place, page in enumerate(part) if is_index(page)) + 1
                part[at:at] = pages
    return config


def is_index(entry: Any) -> bool:
    return "reference.md" in (entry.values() if isinstance(entry, dict) else [entry])


def on_files(files: Any, config: Any) -> Any:
    for group in groups():
        for suffix in (".md", ".es.md"):
            uri = f"{FOLDER}/{group['id']}{suffix}"
            files.append(File(uri, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


def on_pre_page(page: Any, config: Any, files: Any) -> Any:
    folder, _, name = page.file.src_uri.partition("/")
    if folder == FOLDER:
        page.file.content_string = reference_page(name, source_of(config))
    return page


def reference_page(name: str, source: Path) -> str:
    """One page of the reference, `plan.md` or `plan.es.md`, as Markdown."""
    (group,) = [group for group in groups() if group["id"] == name.split(".")[0]]
    language = "es" if name.endswith(".es.md") else "en"
    intro = INTRO[language].format(text=group["text"][language])
    parts = [f"# {group['title'][language]} {{#{group['id']}}}", intro]
    for module, path in members(source)[group["id"]].items():
        parts.append(module_page(module, path, language))
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    if page.file.src_uri.startswith(f"{FOLDER}/"):
        page.meta["search"] = {"boost": 0.5}  # below the pages that explain
    if INDEX not in markdown:
        return markdown
    language = "es" if page.file.src_uri.endswith(".es.md") else "en"
    lines = []
    for group in groups():
        names = members(source_of(config))[group["id"]]
        links = ", ".join(f"[`{name}`]({FOLDER}/{group['id']}.md#{anchor(name)})" for name in names)
        lines.append(f"**[{group['title'][language]}]({FOLDER}/{group['id']}.md)**: "
                     f"{group['text'][language]} {links}.")  # fmt: skip
    return markdown.replace(INDEX, "\n\n".join(lines))


@event_priority(-200)  # after mkdocs-static-i18n has translated the navigation
def on_nav(nav: Any, config: Any, files: Any) -> Any:
    titles = {group["id"]: group["title"] for group in groups()}
    for page in nav.pages:
        folder, _, name = page.file.src_uri.partition("/")
        if folder == FOLDER:
            page.title = titles[name.split(".")[0]]["es" if name.endswith(".es.md") else "en"]
    return nav


def module_page(name: str, path: Path, language: str) -> str:
    """One module as Markdown: a heading, its docstring, its public functions and classes."""
    tree = ast.parse(path.read_text("utf-8"))
    body = [prose(ast.get_docstring(tree) or "")]
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and is_public(node):
            body.append(entry(f"{PACKAGE}.{name}", node))
    inside = "\n".join(body)
    attribute = ' lang="en"' if language != "en" else ""
    heading = f"## {PACKAGE}.{name} {{#{anchor(name)}}}"
    return f'{heading}\n\n<div class="module"{attribute}>\n{inside}\n</div>'


def anchor(name: str) -> str:
    return f"{PACKAGE}.{name}"


def is_public(node: ast.FunctionDef | ast.ClassDef) -> bool:
    return not node.name.startswith("_") and bool(ast.get_docstring(node))


def entry(owner: str, node: ast.FunctionDef | ast.ClassDef) -> str:
    """A function or a class with its public methods, as HTML."""
    id = f"{owner}.{node.name}"
    parts = [f'<pre class="signature" id="{id}" tabindex="0">{html.escape(signature(node))}</pre>']
    parts.append(prose(ast.get_docstring(node) or ""))
    if isinstance(node, ast.ClassDef):
        parts += [
            entry(id, method)
            for method in node.body
            if isinstance(method, ast.FunctionDef) and is_public(method)
        ]
    return f'<div class="api">{"".join(parts)}</div>'


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """How it is called; a class with its fields."""
    decorators = [f"@{ast.unparse(mark)}\n" for mark in node.decorator_list
                  if ast.unparse(mark) in ("property", "classmethod", "staticmethod")]  # fmt: skip
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        fields = [
            f"    {ast.unparse(line)}"
            for line in node.body
            if isinstance(line, ast.AnnAssign) and not ast.unparse(line.target).startswith("_")
        ]
        return "\n".join(
            [f"class {node.name}({bases})" if bases else f"class {node.name}", *fields]
        )
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = ast.unparse(node.args)
    line = f"def {node.name}({arguments}){returns}"
    if len(line) > LONGEST_LINE:
        each = "".join(f"    {argument},\n" for argument in split(arguments))
        line = f"def {node.name}(\n{each}){returns}"
    return "".join(decorators) + line


def split(arguments: str) -> list[str]:
    """Arguments at their commas, those inside brackets left alone."""
    parts, level, start = [], 0, 0
    for place, sign in enumerate(arguments):
        level += (sign in "([{") - (sign in ")]}")
        if sign == "," and level == 0:
            parts.append(arguments[start:place].strip())
            start = place + 1
    return [*parts, arguments[start:].strip()]


def prose(docstring: str) -> str:
    """A docstring as paragraphs; indented blocks as they are."""
    shown = []
    for block in re.split(r"\n\s*\n", docstring.strip()):
        if not block.strip():
            continue
        if all(line.startswith("    ") for line in block.split("\n")):
            shown.append(f'<pre tabindex="0">{html.escape(block)}</pre>')
        else:
            text = html.escape(" ".join(block.split()), quote=False)
            shown.append("<p>" + re.sub(r"`([^`]+)`", r"<code>\1</code>", text) + "</p>")
    return "".join(shown)
