"""`x1 author build`: lab.ipynb and lab.es.ipynb from a lab's source, without the solutions."""

import json
from pathlib import Path
from typing import Any

from x1 import folder
from x1.course.source import NOTEBOOKS, Lab
from x1.text import say

KERNEL = {"display_name": "X1", "language": "python", "name": "x1"}


def notebook(lab: Lab, lang: str) -> dict[str, Any]:
    """The lab's notebook in one language: nbformat 4.5, as a plain JSON object."""
    cells = [cell_record("x1-header", "markdown", header(lab, lang))]
    for cell in lab.cells:
        metadata = {"exercise": cell.exercise} if cell.exercise else {}
        cells.append(cell_record(cell.id, cell.kind, cell.text(lang), metadata))
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
            "x1": {"lab": lab.name, "lang": lang},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def cell_record(
    id: str, kind: str, text: str, metadata: dict[str, Any] | None = None
) -> dict[str, Any]:
    code: dict[str, Any] = {"execution_count": None, "outputs": []} if kind == "code" else {}
    return {
        "cell_type": kind,
        **code,
        "id": id,
        "metadata": metadata or {},
        "source": text.splitlines(keepends=True),
    }


def header(lab: Lab, lang: str) -> str:
    """The first cell: title, time, cost, hardware, and the way to the chapter."""
    twin = ".es.md" if lang == "es" else ".md"
    facts = say(
        "author.header",
        lang,
        minutes=f"{lab.minutes:g}",
        cost=f"${lab.cost_usd:.2f}",
        hardware=lab.hardware[lang],
        chapter=f"../../theory/{lab.name}{twin}",
    )
    return f"# {lab.number:02d} · {lab.title[lang]}\n\n{facts}"


def as_text(lab: Lab, lang: str) -> str:
    """The notebook's file, byte for byte the same at each build, in nbformat's own layout."""
    record = notebook(lab, lang)
    return json.dumps(record, ensure_ascii=False, indent=1, sort_keys=True) + "\n"


def outdated(lab: Lab) -> dict[Path, str]:
    """The notebooks that are not what the source builds, with what it builds."""
    wanted = {lab.folder / name: as_text(lab, lang) for lang, name in NOTEBOOKS.items()}
    return {
        path: text
        for path, text in wanted.items()
        if not path.is_file() or path.read_bytes() != text.encode("utf-8")
    }


def build(lab: Lab) -> list[Path]:
    """Write the notebooks that differ from the source. Returns those written."""
    changed = outdated(lab)
    for path, text in changed.items():
        folder.write_atomically(path, text)
    return list(changed)
