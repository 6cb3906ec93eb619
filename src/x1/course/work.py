"""The learner's copy of a lab, `work/NN-slug/`: its notebook, its backups and its log.

Start, update, change of language and reset are one operation: build the notebook from today's
source, put back what the learner answered, append the cells they added, keep the old file.

`log.jsonl` is append-only and holds everything else: starts, grades, hints, solutions, predictions.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x1 import folder
from x1.course import build, load, source
from x1.course.source import Lab
from x1.text import LANGUAGES, UserError, prefer_language, say

WORK = "work"
NOTEBOOK = "lab.ipynb"
LOG = "log.jsonl"
BACKUPS = "backups"
PREDICTION = re.compile(r"^predict\(\s*[\"'](\w+)[\"']", re.MULTILINE)


@dataclass(frozen=True)
class Copy:
    """A lab and the folder of the learner's work on it, which may not be there yet."""

    lab: Lab
    path: Path

    @property
    def notebook(self) -> Path:
        return self.path / NOTEBOOK

    @property
    def log(self) -> Path:
        return self.path / LOG


def open_copy(number: int, start: Path | None = None) -> Copy:
    """Lab `number` and its work copy, found upward from the current folder.

    What is said from here on is in the copy's language, unless --lang or X1_LANG name one.
    Raises UserError when there is no such lab.
    """
    labs = source.labs_folder(start)
    return copy_of(source.read_lab(source.find_lab(number, labs)))


def copy_of(lab: Lab) -> Copy:
    copy = Copy(lab, lab.folder.parent.parent / WORK / lab.name)
    prefer_language(copy_language(copy))
    return copy


def copy_here(start: Path | None = None) -> Copy:
    """The copy that the notebook running in this folder belongs to. Raises UserError."""
    here = (start or Path.cwd()).absolute()
    labs = source.labs_folder(here)
    for place in (here, *here.parents):
        if (labs / place.name / source.SOURCE).is_file():
            return copy_of(source.read_lab(labs / place.name))
    raise UserError("work.not_a_lab", path=here)


def record(copy: Copy, event: str, **fields: Any) -> None:
    copy.path.mkdir(parents=True, exist_ok=True)
    folder.append_line(copy.log, {"event": event, "time": folder.now(), **fields}, durable=True)


def history(copy: Copy, *kinds: str) -> list[dict[str, Any]]:
    """The log since the last reset, all of it or the events of these kinds.

    A solution that was shown stays shown: those lines outlive a reset.
    """
    lines = [line for line in folder.read_lines(copy.log) if "event" in line]
    last = max((n for n, line in enumerate(lines) if line["event"] == "reset"), default=-1)
    return [
        line
        for number, line in enumerate(lines)
        if (number > last or line["event"] == "solution") and (not kinds or line["event"] in kinds)
    ]


def copy_language(copy: Copy) -> str | None:
    """The language the copy's notebook was last built in; None when there is no copy."""
    if not copy.notebook.exists():
        return None
    known = [line["lang"] for line in folder.read_lines(copy.log) if line.get("lang") in LANGUAGES]
    return str(known[-1]) if known else None


def built(lab: Lab, lang: str) -> dict[str, Any]:
    """The lab's notebook as it is built today, as plain JSON."""
    return dict(json.loads(build.as_text(lab, lang)))


def answer_key(text: str) -> str | None:
    """What a cell answers, by which it is put back: an exercise or a prediction."""
    exercise = load.exercise_of(text)
    if exercise:
        return f"exercise {exercise}"
    found = PREDICTION.search(text)
    return f"predict {found[1]}" if found else None


def digests(notebook: dict[str, Any]) -> list[str]:
    """One digest a cell, by which a cell of ours is told from one the learner wrote or changed."""
    return [hashed(load.source_of(cell).strip()) for cell in notebook["cells"]]


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def make(copy: Copy, lang: str, old: Path | None, keep: bool = True) -> tuple[Path | None, int]:
    """Build the copy's notebook anew, with the learner's cells of `old` put back if `keep`.

    Returns (the backup of the notebook that was there, how many answers were put back).
    Raises UserError when `old` is no notebook.
    """
    new = built(copy.lab, lang)
    answers, extra = learners_cells(copy, old) if old and keep else ({}, [])
    put_back = 0
    for cell in new["cells"]:
        key = answer_key(load.source_of(cell)) if cell["cell_type"] == "code" else None
        if key in answers:
            cell["source"] = answers.pop(key)
            put_back += 1
    if extra or answers:
        new["cells"].append(prose(say("work.your_cells", lang)))
        new["cells"] += [code(text) for text in answers.values()] + extra
    copy.path.mkdir(parents=True, exist_ok=True)
    backup = back_up(copy)
    text = json.dumps(new, indent=1, ensure_ascii=False) + "\n"
    folder.write_atomically(copy.notebook, text)
    ours = sorted(set(digests(built(copy.lab, lang))))
    event = "start" if keep else "reset"
    record(copy, event, lang=lang, built_from=fingerprint(copy.lab), cells=ours)
    return backup, put_back


def learners_cells(copy: Copy, old: Path) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """(answers by key, the other cells that are not ours) of a notebook."""
    ours = {one for lang in LANGUAGES for one in digests(built(copy.lab, lang))}
    for line in folder.read_lines(copy.log):
        ours |= set(line.get("cells", []))
    ours |= committed_digests(copy.lab, besides=old)
    ours |= {hashed(say("work.your_cells", lang)) for lang in LANGUAGES}
    notebook = load.read_notebook(old)
    answers: dict[str, str] = {}
    extra: list[dict[str, Any]] = []
    for cell, seen in zip(notebook["cells"], digests(notebook), strict=True):
        text, kind = load.source_of(cell), cell.get("cell_type")
        if seen in ours or not text.strip():
            continue
        key = answer_key(text) if kind == "code" else None
        if key and key not in answers:
            answers[key] = text
        else:
            extra.append(code(text) if kind == "code" else prose(text, str(kind)))
    return answers, extra


def committed_digests(lab: Lab, besides: Path) -> set[str]:
    """Digests of the committed notebooks' cells, which an older source may have built."""
    found: set[str] = set()
    for name in source.NOTEBOOKS.values():
        path = lab.folder / name
        if path.is_file() and path.resolve() != besides.resolve():
            found |= set(digests(load.read_notebook(path)))
    return found


def code(text: str) -> dict[str, Any]:
    return {
        "cell_type": "code", "execution_count": None, "id": fresh_id(text), "metadata": {},
        "outputs": [], "source": text,
    }  # fmt: skip


def prose(text: str, kind: str = "markdown") -> dict[str, Any]:
    kind = kind if kind in ("markdown", "raw") else "markdown"
    return {"cell_type": kind, "id": fresh_id(text), "metadata": {}, "source": text}


def fresh_id(text: str) -> str:
    return f"own-{hashed(text)[:8]}-{time.perf_counter_ns() % 10**8:08d}"


def back_up(copy: Copy) -> Path | None:
    """Put the notebook that is there aside, under the time; None when there is none."""
    if not copy.notebook.exists():
        return None
    backups = copy.path / BACKUPS
    backups.mkdir(exist_ok=True)
    stem, count = f"lab-{time.strftime('%Y%m%d-%H%M%S')}", 1
    target = backups / f"{stem}.ipynb"
    while target.exists():
        count += 1
        target = backups / f"{stem}-{count}.ipynb"
    folder.write_atomically(target, copy.notebook.read_bytes())
    return target


def fingerprint(lab: Lab, *names: str) -> str:
    """16 hex digits that change with the lab's source, its table or the other files named."""
    names = (source.SOURCE, source.TABLE, *names)
    return hashed("\0".join((lab.folder / name).read_text("utf-8") for name in names))


def is_outdated(copy: Copy) -> bool:
    """Whether the lab's source has changed since the copy was built."""
    starts = history(copy, "start", "reset")
    return bool(starts) and starts[-1].get("built_from") != fingerprint(copy.lab)


def edited_committed(lab: Lab) -> Path | None:
    """A committed notebook in which an exercise was answered: work that belongs in the copy."""
    for name in source.NOTEBOOKS.values():
        path = lab.folder / name
        if path.is_file() and any(answered(lab, path)):
            return path
    return None


def answered(lab: Lab, path: Path) -> Iterator[str]:
    """The exercises whose cell in this notebook is no longer the stub."""
    try:
        cells = load.code_cells(load.read_notebook(path))
    except UserError:
        return
    for cell in cells:
        name = load.exercise_of(cell.text)
        stub = lab.exercises[name].stub if name in lab.exercises else cell.text
        if name and load.digest(cell.text) != load.digest(stub):
            yield name
