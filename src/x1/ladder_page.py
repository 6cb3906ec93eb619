"""A ladder for people: its plan, how far it is, its result."""

import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from x1 import config as configuration
from x1 import flops, folder
from x1.config import RunConfig
from x1.ladder import (
    PLOT,
    POINTS,
    POINTS_FORMAT,
    PREDICTION,
    PREDICTION_FORMAT,
    RESULT,
    RESULT_FORMAT,
    Ladder,
    Run,
    all_runs,
    compute_leap,
    folder_of,
    is_done,
    own_tokens,
    sizes,
)
from x1.text import say

CALIBRATION_S = 60.0  # a rung that does not show its speed within this is not timed

console = Console(highlight=False, markup=False, soft_wrap=True)


def tell(quiet: bool, key: str, **values: Any) -> None:
    if not quiet:
        console.print(say(key, **values))


class Bar:
    """Progress of a ladder's runs, in FLOPs, so that the time left counts their size."""

    def __init__(self, bar: Progress, place: Path, runs: list[Run]) -> None:
        self.bar, self.place, self.runs = bar, place, runs
        self.weights = {r.name: flops.token_flops(r.config.model).total for r in self.runs}
        self.total_tokens = sum(own_tokens(run) for run in self.runs)
        total = sum(own_tokens(run) * self.weights[run.name] for run in self.runs)
        self.finished: dict[str, int] = {}
        self.task = bar.add_task("", total=total, tokens="")
        self.look()

    def look(self) -> None:
        """Read how far each run has come."""
        done_tokens, done_flops, at = 0, 0.0, ""
        for run in self.runs:
            if run.name not in self.finished and is_done(self.place, run):
                self.finished[run.name] = own_tokens(run)
            tokens = self.finished.get(run.name)
            if tokens is None:
                tokens = tokens_so_far(self.place, run)
                at = at or (run.name if tokens else "")
            done_tokens += tokens
            done_flops += tokens * self.weights[run.name]
        tokens_said = say(
            "ladder.tokens_done", done=f"{done_tokens / 1e6:,.1f}",
            total=f"{self.total_tokens / 1e6:,.1f}",
        )  # fmt: skip
        self.bar.update(self.task, description=at, completed=done_flops, tokens=tokens_said)


def tokens_so_far(place: Path, run: Run) -> int:
    lines = [r for r in folder.read_lines(folder_of(place, run) / folder.METRICS) if "tokens" in r]
    start = run.leaves_at * run.config.batch_tokens
    return max(0, lines[-1]["tokens"] - start) if lines else 0


@contextmanager
def bar_of(place: Path, runs: list[Run], quiet: bool) -> Iterator[Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[tokens]}"),
        TimeRemainingColumn(),
    )
    shown = Console(stderr=True)
    with Progress(*columns, console=shown, disable=quiet or not shown.is_terminal) as bar:
        yield Bar(bar, place, runs)


def show_plan(ladder: Ladder) -> None:
    """The rungs with N, D, FLOPs, and the time this machine would take, measured on a few steps."""
    table = Table(box=None, pad_edge=False)
    for key in ("rung", "N", "non_embedding", "D", "flops", "minutes"):
        table.add_column(say(f"ladder.column_{key}"), justify="left" if key == "rung" else "right")
    total_flops, total_s, timed = 0.0, 0.0, True
    for rung in (*ladder.rungs, ladder.held_back):
        runs = [run for run in all_runs(ladder).values() if run.rung == rung]
        own = sum(own_tokens(run) for run in runs)
        rate = tokens_per_s(runs[0].config) if timed else None
        timed = rate is not None
        seconds = own / rate if rate else math.nan
        cost = own * float(flops.token_flops(runs[0].config.model).total)
        size, counts = sizes(runs[0]), sorted({run.tokens for run in runs if run.point})
        table.add_row(
            rung.name,
            f"{size['N']:,}",
            f"{size['N_non_embedding']:,}",
            " ".join(f"{count / 1e6:.3g}M" for count in counts),
            f"{cost:.2e}",
            f"{seconds / 60:.1f}" if rate else "—",
        )
        total_flops, total_s = total_flops + cost, total_s + seconds
    console.print(table)
    leap, largest = compute_leap(ladder)
    console.print(
        say(
            "ladder.plan", runs=len(all_runs(ladder)), flops=f"{total_flops:.2e}",
            minutes=f"{total_s / 60:.0f}" if timed else "—", rung=ladder.held_back.name,
            leap=leap, largest=largest.name, seeds=ladder.held_back_seeds,
        )
    )  # fmt: skip


def tokens_per_s(config: RunConfig) -> float | None:
    """Training tokens/s here, over a few steps; None if they take longer than a minute."""
    try:
        output = subprocess.run(
            [sys.executable, "-m", "x1.calibrate"],
            input=configuration.to_toml(config),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
            timeout=CALIBRATION_S,
        ).stdout
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    return float(output)


def show_result(place: Path) -> None:
    """The table at the end: predicted, measured, missed by how much, beside the naive guesses."""
    result = folder.read_json(place / RESULT, RESULT_FORMAT)
    prediction = folder.read_json(place / PREDICTION, PREDICTION_FORMAT)
    table = Table(box=None, pad_edge=False)
    for key in ("what", "nats", "miss"):
        table.add_column(say(f"ladder.column_{key}"), justify="left" if key == "what" else "right")
    table.add_row(say("ladder.row_measured"), f"{result['measured_nats_per_token']:.4f}", "")
    guesses = {"law": result, **result["naive"]}
    for name, guess in guesses.items():
        value, miss = guess["predicted_nats_per_token"], guess["miss_nats_per_token"]
        table.add_row(say(f"ladder.row_{name}"), f"{value:.4f}", f"{miss:+.4f}")
    console.print(table)
    interval, verdicts, law = result["interval"], result["verdicts"], prediction["law"]
    deviation = result["seed_deviation_nats_per_token"]
    console.print(
        say(
            "ladder.inside" if verdicts["inside"] else "ladder.outside",
            low=interval["low"], high=interval["high"], level=interval["level"],
            spread="—" if deviation is None else f"{deviation:.4f}", time=result["predicted_at"],
        )
    )  # fmt: skip
    words = {met: say("ladder.met" if met else "ladder.not_met") for met in (True, False)}
    console.print(say("ladder.target_nats", verdict=words[verdicts["miss_at_most_0.02"]]))
    third = words[verdicts["miss_at_most_a_third_of_the_naive"]]
    console.print(say("ladder.target_naive", verdict=third))
    exponents = law["intervals"]
    console.print(
        say(
            "ladder.exponents", alpha=law["alpha"], alpha_low=exponents["alpha"][0],
            alpha_high=exponents["alpha"][1], beta=law["beta"], beta_low=exponents["beta"][0],
            beta_high=exponents["beta"][1],
        )
    )  # fmt: skip
    other = prediction["law_non_embedding"]["predicted_nats_per_token"]
    console.print(say("ladder.other_n", other="—" if other is None else f"{other:.4f}"))
    floor = result["E"]
    if floor["verdict"] is None:
        console.print(
            say("ladder.E_alone", E=floor["fitted"], low=floor["low"], high=floor["high"])
        )
    else:
        console.print(
            say(f"ladder.E_{floor['verdict']}", E=floor["fitted"], low=floor["low"],
                high=floor["high"], floor=floor["floor"])
        )  # fmt: skip
    console.print(say("ladder.done", path=place / RESULT, plot=place / PLOT))


def draw(place: Path) -> None:
    """Write ladder.svg."""
    from x1 import ladder_plot  # matplotlib: only here

    folder.write_atomically(
        place / PLOT,
        ladder_plot.draw(
            folder.read_json(place / POINTS, POINTS_FORMAT)["points"],
            folder.read_json(place / PREDICTION, PREDICTION_FORMAT),
            folder.read_json(place / RESULT, RESULT_FORMAT),
        ),
    )
