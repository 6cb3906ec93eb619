"""What `x1 author build` and `x1 author check` do and say."""

from pathlib import Path

from rich.console import Console

from x1.course import build, parity
from x1.course.source import Lab, find_lab, lab_folders, labs_folder, read_lab
from x1.text import say

console = Console(highlight=False, markup=False, soft_wrap=True)


def chosen_labs(number: int | None) -> tuple[Path, list[Lab], str | None]:
    """(the repository, the labs, the one stage's name if a number was given)."""
    labs = labs_folder()
    folders = lab_folders(labs) if number is None else [find_lab(number, labs)]
    return labs.parent, [read_lab(folder) for folder in folders], (
        None if number is None else folders[0].name
    )  # fmt: skip


def run_build_command(number: int | None) -> None:
    """Write the notebooks that are not what their sources build, and parity.lock."""
    root, labs, only = chosen_labs(number)
    written = [path for lab in labs for path in build.build(lab)]
    pairs = list(parity.all_pairs(root, only))
    if not parity.is_locked(root, pairs, only):
        parity.write_lock(root, pairs, only=only)
        written.append(root / parity.LOCK)
    for path in written:
        console.print(say("author.built", path=path.relative_to(root)))
    if not written:
        console.print(say("author.nothing_to_build", count=len(labs)))
    for said in parity.drifted(pairs, parity.read_lock(root)):
        console.print(said)


def run_check_command(number: int | None, seeds: int, acknowledge: str | None) -> int:
    """Print every finding; 1 if there are any. With `acknowledge`, only acknowledge a pair."""
    from x1.course import prove

    if acknowledge is not None:
        root = labs_folder().parent
        for name in parity.write_lock(root, list(parity.all_pairs(root)), acknowledge):
            console.print(say("author.acknowledged", pair=name))
        return 0
    root, labs, only = chosen_labs(number)
    found = prove.check_labs(labs, seeds, console.print) + prove.check_parity(root, only)
    for said in found:
        console.print(said)
    console.print(
        say("author.check_failed", count=len(found)) if found else say("author.check_passed")
    )
    return 1 if found else 0
