"""What a person sees while data is prepared: what it will take, how far it is, what it took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from x1 import flops
from x1.data import read_index
from x1.markup import duration
from x1.predict import Prediction
from x1.text import language, say

NOTHING = {"tokens": 0, "documents": 0, "bytes": 0, "empty_documents": 0}
ANNOUNCED_TOKENS = 20_000_000  # fewer are ready before anybody has read how long they take
TOLD_EVERY_S = 60.0  # where there is no terminal for a bar


@dataclass
class Display:
    """What a person sees meanwhile: a bar with its rate, and sentences above it."""

    console: Console
    bar: Progress
    task: TaskID
    in_bytes: bool = False
    before: dict[str, int] = field(default_factory=lambda: dict(NOTHING))
    began: float = 0.0
    told: float = 0.0

    def tell(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def announce(self, path: Path, tokens: int, need: int, free: int, hours: Prediction) -> None:
        """What is about to be done: tokens, bytes of disk, and the time it is expected to take."""
        if tokens < ANNOUNCED_TOKENS:
            return
        self.tell(
            say(
                "data.announced", path=path, tokens=f"{tokens:,}", need=f"{need / flops.GIGA:.2f}",
                free=f"{free / flops.GIGA:.2f}",
            )
        )  # fmt: skip
        if hours.value is None or hours.low is None or hours.high is None:
            self.tell(say("data.no_time"))
            return
        value, low, high = (duration(3600 * h) for h in (hours.value, hours.low, hours.high))
        basis = hours.basis[language()]
        self.tell(say("data.expected", value=value, low=low, high=high, basis=basis))

    def stage(
        self,
        name: str,
        total: dict[str, int] | None = None,
        tokens: int = 0,
        size_bytes: int | None = None,
    ) -> None:
        """A new stage; with `total`, one whose progress is known, perhaps resumed from there."""
        total = total or NOTHING
        if total["tokens"]:
            self.tell(say("data.resumed", tokens=f"{total['tokens']:,}"))
        self.in_bytes = not tokens
        self.before, self.began = dict(total), time.monotonic()
        self.told = self.began
        self.bar.reset(self.task, description=name, total=tokens or size_bytes, rate="")
        self.advance(total)

    def advance(self, total: dict[str, int]) -> None:
        rate = self._rate(total) if total["tokens"] > self.before["tokens"] else ""
        done = total["bytes" if self.in_bytes else "tokens"]
        self.bar.update(self.task, completed=done, rate=rate)
        if self.bar.disable and time.monotonic() - self.told > TOLD_EVERY_S:
            self.told = time.monotonic()
            self.tell(say("data.so_far", tokens=f"{total['tokens']:,}", rate=rate))

    def _rate(self, total: dict[str, int]) -> str:
        seconds = max(time.monotonic() - self.began, 1e-9)
        tokens = (total["tokens"] - self.before["tokens"]) / seconds
        megabytes = (total["bytes"] - self.before["bytes"]) / seconds / 1e6
        return say("data.rate", tokens=f"{tokens:,.0f}", megabytes=f"{megabytes:.1f}")

    def finished(self, path: Path, settings: dict[str, Any]) -> None:
        index = read_index(path)
        train, held_out = index["train"], index["held_out"]
        size_bytes = sum(record["bytes"] for record in index["files"].values())
        self.bar.update(self.task, visible=False)
        self.tell(
            say(
                "data.finished",
                path=path,
                train=f"{train['tokens']:,}",
                documents=f"{train['documents']:,}",
                held_out=f"{held_out['tokens']:,}",
                rate=f"{index['preparation']['tokens_per_s']:,}",
                size=f"{size_bytes / flops.GIGA:.2f}",
            )
        )
        wanted = settings["data.train_tokens"]
        if train["tokens"] < wanted:
            self.tell(say("data.ended_early", train=f"{train['tokens']:,}", wanted=f"{wanted:,}"))


@contextmanager
def display(quiet: bool) -> Iterator[Display]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(quiet=quiet)
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        yield Display(console, bar, bar.add_task("", total=None, rate=""))
