"""`x1 watch`: the picture of a run on this terminal, refreshed until the run has ended."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from x1 import folder, watch, watch_ssh
from x1.text import say
from x1.watch_page import View

PER_SECOND = 1


def run_watch_command(
    target: str, as_json: bool, follow: bool, ssh_config: Path | None = None
) -> int:
    """Draw `target`, a run's folder or ssh://user@host/PATH, or print it as JSON; 0 at the end.

    `follow` prints a line for each look, so it means JSON too.

    Into a file or a pipe it is drawn once. Raises UserError if there is no run to see.
    """
    away = None
    if target.startswith(watch_ssh.SCHEME):
        away = watch_ssh.parse(target, ssh_config)
    if as_json or follow:
        return print_lines(Path(target), away, follow)
    if away is None:
        folder.open_run(Path(target))
    console = Console(highlight=False, markup=False)
    views = over_ssh(away) if away else from_folder(Path(target))
    if not console.is_terminal:
        console.print(next(views))
        return 0
    view = None
    try:
        with Live(console=console, screen=True, refresh_per_second=PER_SECOND) as live:
            for view in views:
                live.update(view)
    except KeyboardInterrupt:
        pass  # the usual way to leave; what was seen last stays on the terminal
    finally:
        if view is not None:
            console.print(view, height=console.size.height)
    return 0


def from_folder(run: Path) -> Iterator[View]:
    for seen in watch.looks(run):
        yield View(seen)


def over_ssh(target: watch_ssh.Target) -> Iterator[View]:
    for seen, received_s, lost in watch_ssh.looks(target):
        yield View(seen, say("watch.lost") if lost else "", received_s)


def print_lines(run: Path, away: watch_ssh.Target | None, follow: bool) -> int:
    """One JSON line, or with `follow` one for each look."""
    if away and not follow:
        print(watch_ssh.once(away))
        return 0
    if not follow:
        print(line_of(watch.snapshot(run, time.time())))
        return 0
    before = None
    looks = (seen for seen, _, _ in watch_ssh.looks(away)) if away else watch.looks(run)
    try:
        for seen in looks:
            if seen is not before:
                print(line_of(seen), flush=True)
            before = seen
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def line_of(seen: watch.Json) -> str:
    return json.dumps(seen, ensure_ascii=False, allow_nan=False)
