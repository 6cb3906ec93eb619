"""Where a run stood in one of its attempts: what it knew then, and the way that leads there.

An attempt begins with a start or a roll-back. Of the batches left out and the faults that have
struck it knows those of its own time and before; what came later is no part of it.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from x1 import checkpoint, folder, stability, train
from x1.config import RunConfig
from x1.stability import Detector
from x1.text import UserError
from x1.train import Position

BEGINS = ("start", "rollback")  # the events that begin an attempt
LINE_FIELDS = {"step", "attempt", "data_index", "loss", "grad_norm", "clock"}
EVENT_FIELDS = {
    "start": {"attempt", "step"},
    "rollback": {"attempt", "from_step", "to_step", "skipped", "fired", "reason"},
    "skip": {"step", "data_index", "reason"},
    "spike": {"step", "data_index", "loss", "grad_norm"},
}

Json = dict[str, Any]


@dataclass(frozen=True)
class Attempt:
    """One attempt of a run: its number, its steps, and every event up to its end.

    `last` is the step it was at when it ended, whose line may be missing.
    """

    number: int
    first: int
    last: int
    events: tuple[Json, ...]

    @property
    def own_events(self) -> tuple[Json, ...]:
        """Those since it began."""
        return self.events[max(i for i, e in enumerate(self.events) if e["event"] in BEGINS) :]

    @property
    def skipped(self) -> dict[int, str]:
        """The batches it leaves out, all that it ever learns of."""
        known = {e["data_index"]: e["reason"] for e in self.events if e["event"] == "skip"}
        for event in self.events:
            if event["event"] == "rollback":
                known |= dict.fromkeys(event["skipped"], "rollback")
        return known

    def index_of(self, step: int) -> int:
        """The batch it trains on at `step`."""
        return Position(step, self.number, self.skipped, Detector()).data_index


@dataclass(frozen=True)
class Moment:
    """A step of an attempt, and the checkpoint from which it is reached (0: the untrained model).

    `lines` are the training lines on record, `others` further attempts that came to this step.
    """

    run: Path
    config: RunConfig
    lines: tuple[Json, ...]
    step: int
    attempt: Attempt
    others: tuple[int, ...]
    from_step: int

    @property
    def steps(self) -> int:
        return self.step - self.from_step + 1

    @property
    def seconds_per_step(self) -> float:
        """The run's own, on the machine it ran on; NaN if none is on record."""
        seconds = [float(line["clock"]["seconds"]) for line in self.lines]
        return median(seconds) if seconds else math.nan


def find(run: Path, step: int, number: int | None = None) -> Moment:
    """What to replay for `step` of attempt `number`, or of the latest that came to it.

    Raises UserError for a folder that is no run or has not begun, an attempt there was not, a
    step that it did not come to, and an events.jsonl that lacks fields.
    """
    config = folder.open_run(run)
    lines = training_lines(run)
    known = attempts(run, config, lines)
    if not known:
        raise UserError("replay.untouched", run=run)
    there = [a for a in known if a.first <= step <= a.last]
    if number is None:
        if not there:
            first, last = min(a.first for a in known), max(a.last for a in known)
            raise UserError("replay.step", run=run, step=step, first=first, last=last)
        trained = {line["attempt"] for line in lines if line["step"] == step}
        chosen = next((a for a in reversed(there) if a.number in trained), there[-1])
    else:
        named = [a for a in known if a.number == number]
        if not named:
            numbers = ", ".join(str(a.number) for a in known)
            raise UserError("replay.attempt", run=run, attempt=number, known=numbers)
        chosen = named[-1]
        if chosen not in there:
            raise UserError(
                "replay.step_of_attempt",
                attempt=number, step=step, first=chosen.first, last=chosen.last,
            )  # fmt: skip
    others = tuple(a.number for a in there if a.number != chosen.number)
    from_step = nearest_checkpoint(run, config, chosen, step, known)
    return Moment(run, config, tuple(lines), step, chosen, others, from_step)


def training_lines(run: Path) -> list[Json]:
    """The whole training lines of metrics.jsonl; one that lacks a field is left out."""
    return [
        line
        for line in folder.read_lines(run / folder.METRICS)
        if line.keys() >= LINE_FIELDS and isinstance(line["clock"], dict)
    ]


def attempts(run: Path, config: RunConfig, lines: list[Json]) -> list[Attempt]:
    """Every attempt on record, oldest first. Raises UserError for events that lack fields."""
    events = folder.events(run)
    for event in events:
        if not event.keys() >= EVENT_FIELDS.get(event["event"], set()):
            raise UserError("folder.damaged", path=run / folder.EVENTS)
    begins = [place for place, event in enumerate(events) if event["event"] in BEGINS]
    found = []
    for begin, end in pairwise([*begins, len(events)]):
        event = events[begin]
        number = event["attempt"]
        first = event["to_step"] if event["event"] == "rollback" else event["step"]
        trained = [line["step"] for line in lines if line["attempt"] == number]
        last = min(max([first, *(step + 1 for step in trained)]), config.train.steps - 1)
        found.append(Attempt(number, first, last, tuple(events[:end])))
    return found


def nearest_checkpoint(
    run: Path, config: RunConfig, attempt: Attempt, step: int, known: list[Attempt]
) -> int:
    """The newest sound checkpoint at or before `step` that lies on this attempt's way; 0 is none.

    A later attempt may have written it again. It is the same state as long as all that this one
    knew better, batches to leave out and faults that had struck, came after it.
    """
    by_number = {a.number: a for a in known}
    with scratch(run, attempt) as here:
        on_the_way = train.valid_after(here)
        for at in reversed([s for s in checkpoint.steps(run) if s <= step]):
            found = checkpoint.read(checkpoint.path_of(run, at))
            if found is None or not on_the_way(found):
                continue
            writer = by_number.get(found.state["attempt"])
            if writer and same_past(config, attempt, writer, at):
                return at
    return 0


def same_past(config: RunConfig, one: Attempt, writer: Attempt, step: int) -> bool:
    """Whether `writer` came to `step` by the same batches, with the same faults, as `one`."""
    if writer.number <= one.number:
        return True
    struck = {text for e in writer.events[len(one.events) :] for text in e.get("fired", ())}
    changed = {
        index
        for fault in stability.parse_injections(sorted(struck), config.train.steps - 1)
        for index in range(fault.data_index, fault.data_index + stability.INJECTIONS[fault.kind])
    }
    changed = (changed | writer.skipped.keys()) - one.skipped.keys()
    return all(index > one.index_of(step - 1) for index in changed)


@contextmanager
def scratch(run: Path, attempt: Attempt, from_step: int = 0) -> Iterator[Path]:
    """A folder that is the run as this attempt left it, with no checkpoint but `from_step`."""
    with TemporaryDirectory(prefix="x1-replay-") as name:
        here = Path(name)
        for file in (folder.CONFIG, folder.PLAN, folder.MANIFEST):
            if (run / file).exists():
                (here / file).write_bytes((run / file).read_bytes())
        events = "".join(json.dumps(event) + "\n" for event in attempt.events)
        (here / folder.EVENTS).write_text(events, "utf-8")
        if from_step:
            link = checkpoint.path_of(here, from_step)
            link.parent.mkdir()
            link.symlink_to(checkpoint.path_of(run, from_step).absolute(), target_is_directory=True)
        yield here


def way_to(moment: Moment) -> dict[int, Json]:
    """Each step's line of the latest attempt up to this one: the way that leads to the step."""
    lines: dict[int, Json] = {}
    for line in moment.lines:
        before = lines.get(line["step"], line)
        if before["attempt"] <= line["attempt"] <= moment.attempt.number:
            lines[line["step"]] = line
    return lines
