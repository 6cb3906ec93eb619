"""HIRING_PATH.md, which stands at the top of the repository, as a page of the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

PAGE = "hiring-path"
SOURCES = {f"{PAGE}.md": "HIRING_PATH.md", f"{PAGE}.es.md": "HIRING_PATH.es.md"}
SWITCH = re.compile(r"^\[?\*{0,2}English.*Español.*$\n", re.MULTILINE)  # the site has its own
TO_LAB = re.compile(r"\]\(labs/([\w-]+)/lab(?:\.es)?\.ipynb")
TO_PAGE = re.compile(r"\]\((docs|theory)/([\w/-]+?)(?:\.es)?\.md")
FOLDERS = {"docs": "", "theory": "chapters/"}


def root_of(config: Any) -> Path:
    return Path(config.config_file_path).parent


def is_there(root: Path) -> bool:
    return all((root / source).is_file() for source in SOURCES.values())


def on_config(config: Any) -> Any:
    """What is not written is not in the navigation."""
    if config.nav and not is_there(root_of(config)):
        config.nav = [
            entry
            for entry in config.nav
            if not (isinstance(entry, dict) and f"{PAGE}.md" in entry.values())
        ]
    return config


def on_files(files: Any, config: Any) -> Any:
    for uri in SOURCES if is_there(root_of(config)) else ():
        files.append(File(uri, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


def on_pre_page(page: Any, config: Any, files: Any) -> Any:
    source = SOURCES.get(page.file.src_uri)
    if source:
        page.file.content_string = as_page((root_of(config) / source).read_text("utf-8"))
    return page


def as_page(markdown: str) -> str:
    """The file with its links led into the site, in any language."""
    markdown = TO_LAB.sub(r"](labs/\1.md", SWITCH.sub("", markdown))
    return TO_PAGE.sub(lambda link: f"]({FOLDERS[link[1]]}{link[2]}.md", markdown)
