"""The picture of `x1 watch` as an SVG file, drawn from one snapshot of a real run
(watch.json) by the program itself. As in a terminal, its colours are its own.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from x1.text import set_language
from x1.watch_page import page

DOCS = Path(__file__).parent
WIDTH, HEIGHT = 80, 24
FONT = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def svg(language: str) -> str:
    """The file's content; nothing in it is fetched from elsewhere."""
    seen = json.loads((DOCS / "watch.json").read_text("utf-8"))["seen"]
    set_language(language)
    try:
        with in_utc():
            lines = page(seen, WIDTH, HEIGHT)
    finally:
        set_language(None)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=WIDTH, height=HEIGHT, force_terminal=True,
                          highlight=False, file=nowhere, color_system="truecolor")  # fmt: skip
        for line in lines:
            console.print(line)
        drawn = console.export_svg(
            title=f"x1 watch {seen['run']}", theme=MONOKAI, unique_id="watch"
        )
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.S)
    return drawn.replace("Fira Code, monospace", FONT) + "\n"


@contextmanager
def in_utc() -> Iterator[None]:
    """Times of day as they were for everybody, not for whoever draws."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
