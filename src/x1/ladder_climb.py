"""`x1 ladder`: climb a ladder from wherever it stands, each thing only if it is not there yet."""

import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from x1 import data, folder, supervise
from x1.ladder import (
    DEFINITION,
    LOG,
    PLOT,
    PREDICTION,
    RESULT,
    Ladder,
    Run,
    all_runs,
    folder_of,
    groups,
    held_back_runs,
    is_done,
    named,
    read,
    to_toml,
    with_text,
)
from x1.ladder_law import measure, write_prediction, write_result
from x1.ladder_page import Bar, bar_of, draw, show_plan, show_result, tell
from x1.text import UserError, say

TICK_S = 0.3
STOPPING_S = 60.0


def train_group(place: Path, runs: list[Run], show: Bar, own_session: bool = True) -> int:
    """Train what is left of `runs` in one child process; returns 0, or 130 if it was stopped.

    Under a supervisor the child stays in this process's session, which the supervisor ends whole.

    Raises UserError when the child fails: what it said last, and where all of it is.
    """
    left = [run for run in runs if not is_done(place, run)]
    if not left:
        return 0
    for run in left:
        if folder_of(place, run).exists():
            supervise.wait_for_orphan(folder_of(place, run), supervise.Signals())
    command = [sys.executable, "-m", "x1.rung", str(place), *(run.name for run in left)]
    with (place / LOG).open("ab") as log:
        # A session of its own: a Ctrl-C reaches this process alone, which passes it on below. If
        # this one is killed, the trainer sees that its parent is gone, saves and ends.
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=own_session
        )
        try:
            while child.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(TICK_S)
                show.look()
        except BaseException:
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOPPING_S)
            child.kill()
            raise
    if child.returncode in (0, 130):
        return child.returncode
    said = (place / LOG).read_text("utf-8", "replace").strip().splitlines()
    last = said[-1] if said and child.returncode > 0 else f"signal {-child.returncode}"
    raise UserError("ladder.failed", why=last, log=place / LOG)


def run_ladder_command(
    name: str | None,
    file: Path | None,
    text: list[Path] | None,
    place: Path | None,
    dry_run: bool,
    as_json: bool,
    new_folder: Any,
) -> int:
    """`x1 ladder`: show a ladder (`dry_run`), or climb it from wherever it stands."""
    if name and file:
        raise UserError("ladder.name_and_file")
    if place is not None and (place / DEFINITION).exists() and not (name or file or text):
        ladder = read(place / DEFINITION)
    else:
        ladder = read(file) if file else named(name or "cpu")
        ladder = with_text(ladder, text) if text else ladder
    if dry_run:
        show_plan(ladder)
        return 0
    place = place or new_folder(f"ladder-{ladder.name}")
    code = climb(place, ladder, as_json)
    if code == 0 and as_json:
        print((place / RESULT).read_text("utf-8"), end="")
    return code


def climb(place: Path, ladder: Ladder, quiet: bool = False) -> int:
    """Everything that is left to do of `ladder` in folder `place`; 0 when it is done."""
    check_claim(place, ladder)
    command = shlex.join(["x1", *sys.argv[1:]])
    prepared = data.prepare(held_back_runs(ladder)[0].config, quiet=quiet)
    if not (place / DEFINITION).exists():
        place.mkdir(parents=True, exist_ok=True)
        folder.write_atomically(place / DEFINITION, to_toml(ladder))
    tell(quiet, "ladder.climbing", place=place)
    warn_of_repeats(ladder, prepared, quiet)
    with (
        folder.locked(place, "ladder"),
        bar_of(place, list(all_runs(ladder).values()), quiet) as show,
    ):
        try:
            code = climb_on(place, ladder, command, show, quiet)
        except KeyboardInterrupt:
            code = supervise.INTERRUPTED
    if code:
        again = shlex.join(["x1", "ladder", "--out", str(place)])
        print(say("ladder.stopped", again=again), file=sys.stderr)
        return code
    if not (place / PLOT).exists():
        draw(place)
    if not quiet:
        show_result(place)
    return 0


def climb_on(place: Path, ladder: Ladder, command: str, show: Bar, quiet: bool) -> int:
    """Fitted rungs, points, prediction, held-back rung, result: each only if it is not there yet.

    Returns 0, or the code of the training process that was stopped.
    """
    if not (place / PREDICTION).exists():
        for runs in groups(ladder):
            if code := train_group(place, runs, show):
                return code
        measure(place, ladder, command)
    prediction = write_prediction(place, ladder)
    tell(
        quiet, "ladder.predicted", path=place / PREDICTION, rung=ladder.held_back.name,
        value=prediction["predicted_nats_per_token"], low=prediction["interval"]["low"],
        high=prediction["interval"]["high"],
    )  # fmt: skip
    if code := train_group(place, held_back_runs(ladder), show):
        return code
    show.look()
    if not (place / RESULT).exists():
        write_result(place, ladder, command)
    return 0


def check_claim(place: Path, ladder: Ladder) -> None:
    """Raise UserError if `place` holds another ladder or something else."""
    if (place / DEFINITION).is_file():
        if (place / DEFINITION).read_text("utf-8") != to_toml(ladder):
            raise UserError("ladder.other", path=place)
    elif place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError("ladder.not_a_ladder", path=place, file=DEFINITION)


def warn_of_repeats(ladder: Ladder, prepared: Path, quiet: bool) -> None:
    """A law of fresh tokens says less about repeated ones (2305.16264): say so where they are."""
    there = data.read_index(prepared)["train"]["tokens"]
    wanted = max(*ladder.tokens, ladder.held_back_tokens)
    if wanted > there:
        tell(quiet, "ladder.repeats", there=f"{there:,}", epochs=wanted / there)
