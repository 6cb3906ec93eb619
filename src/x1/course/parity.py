"""Two languages that cannot drift: pages, chapters and lab cells beside their Spanish twins.

Twins agree in what carries over: headings, formulas, code, output, numbers with their units. What
does not, the sentences, is held by `parity.lock`: one line for each pair with the hash of each
side as it was when both were last known to agree. A pair of which one side is known and the other
is not has drifted, wherever in the file it now stands.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from x1 import folder
from x1.course.cells import read_cells
from x1.course.source import LABS, SOURCE, lab_folders
from x1.text import UserError, say

LOCK = "parity.lock"
PLACES = ("docs", "theory")
CHAPTERS = "theory"
SHOWN = 160  # characters of a difference

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,}).*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^(#{1,6}) +(.*?)(?: *\{#([\w-]+)\})?[ \t]*$")
DISPLAYED = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$\w])\$(?=[^\s$])([^$\n]+?)(?<=[^\s\\])\$(?!\d)")
INLINE_CODE = re.compile(r"(?<!`)`[^`\n]+`(?!`)")
TARGET = re.compile(r"\]\([^)]*\)")
NUMERAL = re.compile(
    r"(?<![\w.])(?P<number>−?\$?\d+(?:[.,]\d+)*(?:×10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)?(?!\d))"
    r"(?P<unit>%|(?:[ \u00a0\u202f]?(?!\d)[^\W_]+(?:/[^\W_]+)?(?: millones| billones)?)?)"
)

# Each unit by its written forms in both languages: what a number counts has to be the same thing.
UNITS = {
    form: unit
    for unit, forms in {
        "%": "%",
        "s": "s second seconds segundo segundos",
        "ms": "ms millisecond milliseconds milisegundo milisegundos",
        "min": "min minute minutes minuto minutos",
        "h": "h hour hours hora horas",
        "day": "day days día días",
        "year": "year years año años",
        "B": "byte bytes",
        "kB": "kB KB",
        "MB": "MB",
        "GB": "GB",
        "TB": "TB",
        "GiB": "GiB",
        "bit": "bit bits",
        "nat": "nat nats",
        "token": "token tokens",
        "tokens/s": "tokens/s tok/s",
        "FLOP": "FLOP FLOPs",
        "FLOP/s": "FLOP/s FLOPS",
        "GFLOP/s": "GFLOP/s",
        "TFLOP/s": "TFLOP/s TFLOPS",
        "W": "W watt watts vatio vatios",
        "kW": "kW",
        "kWh": "kWh",
        "dollar": "dollar dollars dólar dólares",
        "cent": "cent cents centavo centavos centavos",
        "thousand": "thousand mil",
        "million": "million millón millones",
        "billion": "billion",
        "trillion": "trillion billón billones",
        "k": "k",
        "M": "M",
        "T": "T",
        "step": "step steps paso pasos",
        "parameter": "parameter parameters parámetro parámetros",
        "layer": "layer layers capa capas",
        "head": "head heads cabeza cabezas",
        "GPU": "GPU GPUs",
        "core": "core cores núcleo núcleos",
        "epoch": "epoch epochs época épocas",
        "sequence": "sequence sequences secuencia secuencias",
    }.items()
    for form in forms.split()
} | {"mil millones": "billion", "mil billones": "quadrillion"}

NOUNS = {"token", "step", "parameter", "layer", "head", "GPU", "core", "epoch", "sequence", "day"}


@dataclass(frozen=True)
class Pair:
    """A section or a cell beside its twin. `key` names it inside `file`, the English one."""

    file: str
    key: str
    english: str
    spanish: str
    where: str
    where_es: str

    @property
    def name(self) -> str:
        return f"{self.file}#{self.key}"

    @property
    def hashes(self) -> tuple[str, str]:
        return digest(self.english), digest(self.spanish)


@dataclass(frozen=True)
class Section:
    level: int
    id: str | None
    title: str
    text: str
    line: int


Lock = dict[str, set[tuple[str, str]]]  # file -> pairs of hashes known to agree


def digest(text: str) -> str:
    """A hash that does not see spaces at the ends of lines."""
    flat = "\n".join(line.rstrip() for line in text.strip().split("\n"))
    return hashlib.sha256(flat.encode("utf-8")).hexdigest()[:16]


def pages(root: Path, only: str | None = None) -> list[Path]:
    """Every English page of the repository, chapters included, or those whose name begins with
    `only`. Raises UserError for one without a twin.
    """
    found = sorted(root.glob("*.md"))
    for place in PLACES:
        found += sorted((root / place).rglob("*.md"))
    found = [path for path in found if path.name.startswith(only or "")]
    english = [path for path in found if not path.name.endswith(".es.md")]
    twins = [path for path in found if path.name.endswith(".es.md")]
    for path in english:
        if spanish_of(path) not in twins:
            raise UserError("author.no_page", path=path, twin=spanish_of(path))
    for path in twins:
        if path.with_name(path.name.replace(".es.md", ".md")) not in english:
            twin = path.with_name(path.name.replace(".es.md", ".md"))
            raise UserError("author.no_page", path=path, twin=twin)
    return english


def spanish_of(path: Path) -> Path:
    return path.with_suffix(".es.md")


def sections(path: Path) -> list[Section]:
    """A page cut at its headings; what stands before the first belongs to it."""
    text = path.read_text("utf-8")
    blank = FENCE.sub(lambda block: re.sub(r"[^\n]", " ", block[0]), text)  # hides code's comments
    lines, found = text.split("\n"), []
    starts = [n for n, line in enumerate(blank.split("\n")) if HEADING.match(line)]
    for place, start in enumerate(starts):
        heading = HEADING.match(lines[start])
        assert heading is not None
        end = starts[place + 1] if place + 1 < len(starts) else len(lines)
        body = "\n".join(lines[start if place else 0 : end])
        found.append(Section(len(heading[1]), heading[3], heading[2], body, start + 1))
    return found


def page_pairs(root: Path, path: Path) -> list[Pair]:
    """The sections of a page beside their twins.

    Raises UserError with file and line where the headings differ in level, id or number, or where
    a chapter's heading has no id.
    """
    file = path.relative_to(root).as_posix()
    twin = spanish_of(path)
    english, spanish = sections(path), sections(twin)
    for side, found in ((path, english), (twin, spanish)):
        for section in found:
            if file.startswith(f"{CHAPTERS}/") and section.id is None:
                raise UserError(
                    "author.no_heading_id", where=f"{side}:{section.line}", title=section.title
                )
    for ours, theirs in zip(english, spanish, strict=False):
        if (ours.level, ours.id) != (theirs.level, theirs.id):
            raise UserError(
                "author.headings_differ",
                where=f"{path}:{ours.line}",
                where_es=f"{twin}:{theirs.line}",
                heading=heading_mark(ours),
                heading_es=heading_mark(theirs),
            )
    if len(english) != len(spanish):
        raise UserError(
            "author.heading_count", path=path, twin=twin, en=len(english), es=len(spanish)
        )
    pairs, used = [], set()
    for ours, theirs in zip(english, spanish, strict=True):
        stem = ours.id or re.sub(r"\W+", "-", ours.title.lower()).strip("-") or "top"
        key, count = stem, 1
        while key in used:
            count += 1
            key = f"{stem}-{count}"
        used.add(key)
        pairs.append(
            Pair(file, key, ours.text, theirs.text, f"{path}:{ours.line}", f"{twin}:{theirs.line}")
        )
    return pairs


def heading_mark(section: Section) -> str:
    return "#" * section.level + (f" {{#{section.id}}}" if section.id else "")


def lab_pairs(root: Path, lab: Path) -> list[Pair]:
    """The prose cells of a lab beside their twins."""
    path = lab / SOURCE
    file = path.relative_to(root).as_posix()
    return [
        Pair(
            file, cell.id, cell.en, cell.es, f"{path}:{cell.line}", f"{path}:{cell.line}"
        )
        for cell, _ in read_cells(path)
        if cell.kind == "markdown"
    ]  # fmt: skip


def all_pairs(root: Path, only: str | None = None) -> Iterator[Pair]:
    """Every pair of the repository, or of the stage `only` ("02-compute-and-cost").

    Raises UserError as `page_pairs` and `read_cells` do.
    """
    for path in pages(root, only):
        yield from page_pairs(root, path)
    for lab in lab_folders(root / LABS):
        if only in (None, lab.name):
            yield from lab_pairs(root, lab)


def formulas(text: str) -> set[str]:
    plain = INLINE_CODE.sub("", FENCE.sub("", text))
    shown = {" ".join(found.split()) for found in DISPLAYED.findall(plain)}
    return shown | {" ".join(found.split()) for found in INLINE.findall(DISPLAYED.sub("", plain))}


def numerals(text: str) -> set[str]:
    """The numbers of a text with what they count: {"24 h", "$1.10", "35 %", "600"}."""
    plain = INLINE.sub(" ", DISPLAYED.sub(" ", FENCE.sub("", text)))
    found = set()
    for match in NUMERAL.finditer(TARGET.sub("]", INLINE_CODE.sub(" ", plain))):
        words = match["unit"].strip()
        unit = UNITS.get(words) or UNITS.get(words.split(" ")[0], "")
        found.add(f"{match['number']} {unit}".strip())
    return found


def blocks(text: str) -> list[str]:
    return [block[0] for block in FENCE.finditer(text)]


def inline_code(text: str) -> set[str]:
    return set(INLINE_CODE.findall(FENCE.sub("", text)))


def headings(text: str) -> list[str]:
    return [found[1] for line in FENCE.sub("", text).split("\n") if (found := HEADING.match(line))]


def table_rows(text: str) -> list[str]:
    """One mark for each row of a table."""
    return re.findall(r"^\|", FENCE.sub("", text), re.MULTILINE)


def differences(pair: Pair) -> list[str]:
    """What the two sides of a pair do not have in common and should: one sentence each."""
    parts: dict[str, Callable[[str], Sequence[str] | set[str]]] = {
        "headings": headings,
        "code": blocks,
        "inline_code": inline_code,
        "formulas": formulas,
        "numerals": numerals,
        "table_rows": table_rows,
    }
    said = []
    for kind, take in parts.items():
        ours, theirs = take(pair.english), take(pair.spanish)
        if kind == "numerals":
            ours, theirs = without_nouns(set(ours), set(theirs))
        if ours != theirs:
            said.append(
                say(
                    "author.differs",
                    where=pair.where,
                    where_es=pair.where_es,
                    what=say(f"author.what_{kind}"),
                    en=shortened(ours, theirs),
                    es=shortened(theirs, ours),
                )
            )
    return said


def without_nouns(ours: set[str], theirs: set[str]) -> tuple[set[str], set[str]]:
    """Two sets of numerals, a noun left out where the other side has the number without it: an
    adjective may stand between them ("16 small steps", "16 pasos pequeños").
    """

    def eased(side: set[str], other: set[str]) -> set[str]:
        parts = [(said, *said.partition(" ")[::2]) for said in side]
        return {n if unit in NOUNS and n in other else said for said, n, unit in parts}

    return eased(ours, theirs), eased(theirs, ours)


def shortened(side: Sequence[str] | set[str], other: Sequence[str] | set[str]) -> str:
    """What one side has and the other has not, on one line."""
    own = sorted(side - other) if isinstance(side, set) and isinstance(other, set) else side
    flat = " ".join(", ".join(own).split()) or "–"
    return flat if len(flat) <= SHOWN else f"{flat[:SHOWN]}…"


def read_lock(root: Path) -> Lock:
    """parity.lock, or an empty one. Raises UserError for a line that is none."""
    path = root / LOCK
    known: Lock = {}
    if not path.is_file():
        return known
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 3:
            raise UserError("author.lock_line", where=f"{path}:{number}")
        known.setdefault(parts[0].partition("#")[0], set()).add((parts[1], parts[2]))
    return known


def changed_side(pair: Pair, lock: Lock) -> str | None:
    """The language in which a pair changed while its twin stayed: "en", "es"; None if neither.

    A pair of which neither side is known is new or was rewritten on both: that is no drift.
    """
    known = lock.get(pair.file, set())
    english, spanish = pair.hashes
    if (english, spanish) in known:
        return None
    if any(english == side for side, _ in known):
        return "es"
    return "en" if any(spanish == side for _, side in known) else None


def drifted(pairs: list[Pair], lock: Lock) -> list[str]:
    """One sentence for each pair of which only one side changed."""
    return [
        say(
            "author.drifted_es" if side == "es" else "author.drifted_en",
            pair=pair.name,
            where=pair.where,
            where_es=pair.where_es,
        )
        for pair in pairs
        if (side := changed_side(pair, lock))
    ]


def lock_text(pairs: list[Pair], lock: Lock, kept: list[str]) -> str:
    """parity.lock for these pairs and the lines `kept` for others; a pair that drifted keeps the
    lines that say so.
    """
    lines = set(kept)
    for pair in pairs:
        english, spanish = pair.hashes
        if changed_side(pair, lock) is None:
            lines.add(f"{pair.name} {english} {spanish}")
        else:
            for known in lock[pair.file]:
                if english == known[0] or spanish == known[1]:
                    lines.add(f"{pair.name} {known[0]} {known[1]}")
    return say("author.lock_head", "en") + "\n" + "".join(f"{line}\n" for line in sorted(lines))


def lines_of_others(root: Path, pairs: list[Pair], only: str | None) -> list[str]:
    """The lock's lines for files that `pairs` are not about, when they are those of one stage."""
    path = root / LOCK
    if only is None or not path.is_file():
        return []
    ours = {pair.file for pair in pairs}
    lines = path.read_text("utf-8").split("\n")
    return [x for x in lines if x and x[0] != "#" and x.partition("#")[0] not in ours]


def is_locked(root: Path, pairs: list[Pair], only: str | None = None) -> bool:
    """Whether parity.lock knows exactly these pairs, or those they drifted from."""
    path = root / LOCK
    there = path.read_text("utf-8") if path.is_file() else ""
    return there == lock_text(pairs, read_lock(root), lines_of_others(root, pairs, only))


def write_lock(
    root: Path, pairs: list[Pair], acknowledged: str | None = None, only: str | None = None
) -> list[str]:
    """Write parity.lock: new pairs and those changed on both sides; a drifted one only if it is
    `acknowledged` (a pair's name, or a file for all of its pairs).

    Returns the names of the pairs acknowledged. Raises UserError when there is nothing of that
    name to acknowledge.
    """
    lock = read_lock(root)
    named = []
    if acknowledged is not None:
        waiting = [pair for pair in pairs if changed_side(pair, lock)]
        named = [pair for pair in waiting if acknowledged in (pair.name, pair.file)]
        if not named:
            raise UserError(
                "author.nothing_to_acknowledge",
                pair=acknowledged,
                waiting=", ".join(pair.name for pair in waiting) or "–",
            )
        for pair in named:
            english, spanish = pair.hashes
            kept = {k for k in lock[pair.file] if english != k[0] and spanish != k[1]}
            lock[pair.file] = kept | {(english, spanish)}
    text = lock_text(pairs, lock, lines_of_others(root, pairs, only))
    folder.write_atomically(root / LOCK, text)
    return [pair.name for pair in named]
