"""What a run's folder says about the run, read once, whatever is missing or damaged.

A folder may come from a stranger, a kill or a full disk. Only `config.toml` must be sound; of
every other file what can be read is used, and `faults` names the rest. Nothing here is written.
"""

import math
import os
import re
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from x1 import clock, folder, ledger
from x1.config import RunConfig
from x1.text import UserError

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
FIELDS = ("loss", "grad_norm", "lr", "tokens")
CLOCK = ("seconds", "tokens_per_s")
LARGEST_COUNT = 1e9
LARGEST = 1e30  # no quantity of a run is larger; what is counts as infinite


@dataclass(frozen=True)
class Fault:
    """A file of the run that is "missing" or "damaged", or `lines` unreadable lines in it."""

    file: str
    kind: str
    lines: int = 0


@dataclass(frozen=True)
class Series:
    """Lines of metrics.jsonl in the order written; each array is (n,), NaN where a value is not.

    `final` marks the curve: for each step its last attempt, up to where the run stands now.
    `time_s` is Unix time.
    """

    step: Floats
    attempt: Floats
    time_s: Floats
    final: Flags
    values: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.step)

    def curve(self, name: str) -> tuple[Floats, Floats]:
        """(steps, values) of the curve, by step."""
        order = np.flatnonzero(self.final)[np.argsort(self.step[self.final], kind="stable")]
        return self.step[order], self.values[name][order]

    def earlier(self, name: str) -> tuple[tuple[Floats, Floats], ...]:
        """(steps, values) of what later attempts replaced, one pair for each attempt."""
        replaced = ~self.final
        parts = [replaced & (self.attempt == a) for a in np.unique(self.attempt[replaced])]
        return tuple((self.step[p], self.values[name][p]) for p in parts)


@dataclass(frozen=True)
class Spending:
    """Dollars spent by each moment: (n,) Unix times that never fall, (n,) cumulative dollars."""

    time_s: Floats
    usd: Floats
    seconds: float
    usd_per_hour: float
    source: str
    plan_sha256: str | None
    prediction_sha256: str | None

    @property
    def total_usd(self) -> float:
        return float(self.usd[-1])

    def by(self, time_s: Floats) -> Floats:
        """Dollars spent by each of these moments."""
        return np.interp(time_s, self.time_s, self.usd)


@dataclass(frozen=True)
class Record:
    """Everything in a run's folder that a report draws on."""

    path: Path
    config: RunConfig
    config_text: str
    training: Series
    held_out: Series
    events: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    manifest: dict[str, Any]
    evaluation: dict[str, Any]
    plan: dict[str, Any]
    prediction: dict[str, Any]  # of the run's own ladder; empty without one
    spending: Spending | None
    running: bool
    faults: tuple[Fault, ...]

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def steps_done(self) -> int:
        """Optimizer updates behind the run's present state."""
        lines = self.training
        latest = float(lines.attempt[-1]) if len(lines) else 0.0
        for event in reversed(self.events):  # a start or roll-back that no line has followed yet
            if event["event"] in ("start", "rollback") and number(event.get("attempt")) > latest:
                at = number(event.get("to_step", event.get("step")))
                return int(at) if math.isfinite(at) else 0
        return int(lines.step[-1]) + 1 if len(lines) else 0

    @property
    def attempts(self) -> int:
        counts = [number(e.get("attempt")) for e in self.events]
        counts += [float(np.max(self.training.attempt))] if len(self.training) else []
        return int(max([c for c in counts if c < LARGEST_COUNT], default=0))


def read(run: Path) -> Record:
    """The record of a run. Raises UserError if `run` is not one or its config.toml is not sound."""
    config = folder.open_run(run)
    steps = config.train.steps
    faults: list[Fault] = []
    metrics = _lines(run, folder.METRICS, faults)
    events = [e for e in _lines(run, folder.EVENTS, faults) if isinstance(e.get("event"), str)]
    training = _series([m for m in metrics if "val_loss" not in m], FIELDS, steps)
    held_out = _series([m for m in metrics if "val_loss" in m], ("val_loss", "val_tokens"), steps)
    return Record(
        path=run,
        config=config,
        config_text=(run / folder.CONFIG).read_text("utf-8"),
        training=training,
        held_out=held_out,
        events=events,
        samples=_lines(run, folder.SAMPLES, faults, needed=False),
        manifest=_object(run, folder.MANIFEST, faults),
        evaluation=_object(run, folder.EVALUATION, faults),
        plan=_object(run, folder.PLAN, faults),
        prediction=_object(run, folder.PREDICTION, faults, needed=False),
        spending=_spending(run, faults),
        running=holder(run) is not None,
        faults=tuple(faults),
    )


def number(value: Any) -> float:
    """A finite or infinite number as it stands in a JSON file; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def dig(record: Any, *names: str) -> Any:
    """`record[a][b]...`, or None where the path breaks off."""
    for name in names:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def unix_time(text: Any) -> float:
    """Seconds since 1970 of an ISO 8601 time, NaN if it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError, OSError):
        return math.nan


def _lines(run: Path, name: str, faults: list[Fault], needed: bool = True) -> list[dict[str, Any]]:
    path = run / name
    if not path.is_file():
        faults += [Fault(name, "missing")] if needed else []
        return []
    try:
        records = folder.read_lines(path)
        written = sum(1 for line in path.read_bytes().split(b"\n") if line.strip())
    except (OSError, RecursionError):
        faults.append(Fault(name, "damaged"))
        return []
    if written > len(records):
        faults.append(Fault(name, "lines", written - len(records)))
    return records


def _object(run: Path, name: str, faults: list[Fault], needed: bool = True) -> dict[str, Any]:
    if not (run / name).is_file():
        faults += [Fault(name, "missing")] if needed else []
        return {}
    try:
        return folder.read_json(run / name)
    except (UserError, OSError, ValueError, RecursionError):
        faults.append(Fault(name, "damaged"))
        return {}


def _series(lines: list[dict[str, Any]], names: tuple[str, ...], steps: int) -> Series:
    """The lines that belong to a run of so many steps, as arrays."""
    usable = [m for m in lines if 0 <= number(m.get("step")) <= steps]

    def column(get: Callable[[dict[str, Any]], float]) -> Floats:
        values = np.fromiter(map(get, usable), dtype=np.float64, count=len(usable))
        values[np.abs(values) > LARGEST] = np.inf
        return values

    def field(name: str) -> Floats:
        return column(lambda line: number(line.get(name)))

    def clock(name: str) -> Floats:
        return column(lambda line: number(dig(line, "clock", name)))

    attempt = field("attempt")
    attempt[~(np.abs(attempt) < LARGEST_COUNT)] = 1.0
    return Series(
        step=field("step"),
        attempt=attempt,
        time_s=column(lambda line: unix_time(dig(line, "clock", "time"))),
        final=_on_curve(field("step"), attempt),
        values={name: field(name) for name in names} | {name: clock(name) for name in CLOCK},
    )


def _on_curve(step: Floats, attempt: Floats) -> Flags:
    """Each step's last line of its latest attempt, up to where the newest line stands."""
    final = np.zeros(len(step), dtype=bool)
    if len(step):
        order = np.lexsort((attempt, step))  # stable: within an attempt, as written
        final[order[np.flatnonzero(np.diff(step[order], append=np.inf))]] = True
        final &= step <= step[-1]
    return final


def _spending(run: Path, faults: list[Fault]) -> Spending | None:
    if not ledger.exists(run):
        faults.append(Fault(folder.LEDGER, "missing"))
        return None
    try:
        now, entries = ledger.read_ledger(run), ledger.read_entries(run)
    except (UserError, OSError):
        faults.append(Fault(folder.LEDGER, "damaged"))
        return None
    time_s = np.maximum.accumulate([unix_time(e["time"]) for e in entries])
    spent = [float(e.get("cumulative_usd", 0)) for e in entries]
    return Spending(
        time_s=time_s,
        usd=np.maximum.accumulate(spent),
        seconds=sum(e.get("seconds", 0.0) for e in entries),
        usd_per_hour=float(now.price.usd_per_hour),
        source=now.price.source,
        plan_sha256=now.plan_sha256,
        prediction_sha256=now.prediction_sha256,
    )


def holder(run: Path, name: str = "train") -> str | None:
    """Who holds the run's lock `.NAME.lock`, in its own words; None if nobody does.

    It is read and never taken, not even for a moment: a trainer that starts in that moment would be
    refused. A killed process leaves its words behind, so on this machine it must still be there and
    be older than they are.
    """
    path = run / f".{name}.lock"
    try:
        words, written_s = path.read_text("utf-8"), path.stat().st_mtime
    except (OSError, UnicodeDecodeError):
        return None
    said = re.fullmatch(r"pid (\d{1,18}), (.*), \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", words.strip())
    if not said:
        return None
    pid, host = int(said[1]), said[2]
    if host != socket.gethostname():
        return said[0]
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return None
    started_ms = clock.process_start_ms(pid)
    if started_ms is None and Path("/proc/self/stat").exists():
        return None  # it has ended, and nobody has asked how
    if started_ms is not None:
        age_s = (clock.instant().boot_ms - started_ms) / 1000
        if time.time() - age_s > written_s + 2:  # another process has got its number
            return None
    return said[0]


@dataclass(frozen=True)
class Kill:
    """A process that ended without a word: at which step, and the start that followed it."""

    step: int
    restart: dict[str, Any]


def kills(record: Record) -> list[Kill]:
    """Starts that no stop, finish or roll-back explains."""
    found, before = [], None
    for event in record.events:
        if event["event"] not in ("start", "stop", "finish", "rollback"):
            continue
        if event["event"] == "start" and before in ("start", "rollback"):
            lines = record.training
            earlier = lines.step[lines.attempt < number(event.get("attempt"))]
            found.append(Kill(int(earlier[-1]) + 1 if len(earlier) else 0, event))
        before = event["event"]
    return found


def status(record: Record) -> tuple[str, dict[str, Any]]:
    """("finished" | "running" | "stopped" | "interrupted" | "untouched", what to say about it)."""
    kinds = [e["event"] for e in record.events if e["event"] in ("start", "stop", "finish")]
    said = {"step": record.steps_done, "steps": record.config.train.steps, "reason": ""}
    if "finish" in kinds:
        return "finished", said | {"step": record.config.train.steps}
    if record.running:
        return "running", said
    if not kinds and not len(record.training):
        return "untouched", said
    if kinds and kinds[-1] == "stop":
        return "stopped", said | {"reason": stop_reason(record)}
    if not kinds and record.steps_done >= record.config.train.steps:
        return "finished", said
    return "interrupted", said


def stop_reason(record: Record) -> str:
    """Why the run was stopped last: by the first to say so since its last start.

    The guard's word comes before that of the trainer it then asks to stop.
    """
    reason = "?"
    for event in reversed(record.events):
        if event["event"] == "start":
            break
        if event["event"] == "stop":
            reason = why(event)
    return reason


def why(event: dict[str, Any]) -> str:
    """An event's reason, with the guard's rule where there is one."""
    return ": ".join(str(event[name]) for name in ("reason", "rule") if name in event) or "?"


def wall_seconds(record: Record) -> float:
    """From the first thing on record to the last; NaN if nothing carries a time."""
    moments = _moments(record)
    return float(np.ptp(moments)) if len(moments) else math.nan


def last_time_s(record: Record) -> float:
    """Unix time of the newest line on record; NaN if none carries one."""
    moments = _moments(record)
    return float(moments.max()) if len(moments) else math.nan


def last_moment(record: Record) -> str:
    """The time of the newest line on record; "" if none carries one."""
    return utc(last_time_s(record))


def _moments(record: Record) -> Floats:
    times = [unix_time(e.get("time")) for e in record.events]
    moments = np.array([*times, *record.training.time_s, *record.held_out.time_s])
    return moments[np.isfinite(moments)]


def utc(time_s: float) -> str:
    """ "2026-03-01 14:02:11 UTC"; "" for a moment no calendar has."""
    try:
        return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return ""


def last_loss(record: Record, before: float = math.inf) -> float:
    """Training loss on reaching step `before`: a median over the last tenth, at most 50 steps.

    The first line stands alone: the loss falls too fast there for a median to mean anything.
    """
    step, loss = record.training.curve("loss")
    loss = loss[(step < max(before, 1)) & np.isfinite(loss)]
    window = max(1, min(50, len(loss) // 10))
    return float(np.median(loss[-window:])) if len(loss) else math.nan


def happenings(record: Record) -> Iterable[tuple[str, dict[str, Any], float]]:
    """(kind, event, step) in order: events as recorded, with kills and resumes told apart."""
    killed = {id(kill.restart): kill.step for kill in kills(record)}
    starts = 0
    for event in record.events:
        kind, step = event["event"], number(event.get("step", event.get("from_step")))
        if kind == "start":
            starts += 1
            if id(event) in killed:
                yield "kill", event, float(killed[id(event)])
                continue
            kind = "resume" if starts > 1 else "start"
        elif kind == "spike" and event.get("benign") is True:
            kind = "benign"
        yield kind, event, step


def held_out(record: Record) -> tuple[float, str, float]:
    """The best held-out figure: (nats per token, "documents" | "windows" | "training", step).

    evaluation.json scores everything held out; until there is one, the newest validation point.
    """
    score = record.evaluation.get("held_out")
    loss = number(dig(score, "loss_nats_per_token"))
    if math.isfinite(loss):
        mode = dig(score, "mode")
        step = number(record.evaluation.get("step"))
        return loss, mode if mode in ("documents", "windows") else "windows", step
    steps, losses = record.held_out.curve("val_loss")
    if len(steps):
        return float(losses[-1]), "training", float(steps[-1])
    return math.nan, "training", math.nan


def bits_per_byte(record: Record) -> float:
    return number(dig(record.evaluation, "held_out", "bits_per_byte"))


def floor(record: Record) -> float:
    return number(dig(record.evaluation, "floor", "nats_per_token"))


def exact_floor(record: Record, *part: str) -> float:
    """-log p of the very documents scored, per token: the floor without their luck.

    `part` names a part of evaluation.json's floor, such as "english". The entropy itself where
    the evaluation does not say.
    """
    found = number(dig(record.evaluation, "floor", *part, "these_documents_nats_per_token"))
    if math.isfinite(found):
        return found
    return number(dig(record.evaluation, "floor", *part, "nats_per_token"))


def first_loss(record: Record) -> float:
    """The untrained model's training loss; NaN if step 0 is not on record."""
    steps, losses = record.training.curve("loss")
    return float(losses[0]) if len(steps) and steps[0] == 0 else math.nan


def throughput(record: Record) -> tuple[float, float, float]:
    """Median tokens/s of the curve's steps, and their 10th and 90th percentiles."""
    _, rates = record.training.curve("tokens_per_s")
    rates = rates[np.isfinite(rates)]
    if not len(rates):
        return math.nan, math.nan, math.nan
    middle, low, high = np.percentile(rates, [50, 10, 90])
    return float(middle), float(low), float(high)


def mfu(record: Record) -> float:
    """Needed FLOPs per second at the median throughput, over the recorded peak."""
    peak = number(dig(record.manifest, "peak_flops", "value"))
    per_token = number(record.manifest.get("flops_per_token"))
    return throughput(record)[0] * per_token / peak if peak > 0 else math.nan


def results(record: Record) -> dict[str, float]:
    """What became of each prediction that the folder can answer, by the prediction's name."""
    lines, spending = record.training, record.spending
    return {
        "tokens_per_s": throughput(record)[0],
        "mfu": mfu(record),
        "training_hours": float(np.nansum(lines.values["seconds"][lines.final])) / 3600,
        "hours": spending.seconds / 3600 if spending else math.nan,
        "dollars": spending.total_usd if spending else math.nan,
        "micro_batch": number(record.manifest.get("micro_batch")),
        "checkpoints_written": float(sum(e["event"] == "checkpoint" for e in record.events)),
        "loss_nats_per_token": held_out(record)[0],
        "bits_per_byte": bits_per_byte(record),
    }


@dataclass(frozen=True)
class Phase:
    """A stretch of steps [first, last): what it cost over all attempts, and the loss around it."""

    first: int
    last: int
    loss_before: float
    loss_after: float
    seconds: float
    usd: float

    @property
    def gain_nats(self) -> float:
        return self.loss_before - self.loss_after


@dataclass(frozen=True)
class Costs:
    """Dollars by phase; what was spent before the first step and after the last one is apart."""

    before_usd: float
    phases: tuple[Phase, ...]
    after_usd: float


def phase_borders(record: Record) -> list[int]:
    """The run's milestones, if they make at least three phases; else its thirds."""
    steps = record.config.train.steps
    milestones = {*record.config.sample.milestones, *record.config.checkpoint.milestones}
    borders = sorted({0, steps, *(m for m in milestones if 0 < m < steps)})
    if len(borders) < 4:
        borders = sorted({0, steps // 3, 2 * steps // 3, steps})
    return borders


def costs(record: Record, spending: Spending) -> Costs | None:
    """Every dollar of the ledger, told apart by the step that was being trained; None untrained.

    The time since the line before belongs to a line's step: a restart's lost minutes are paid by
    the phase that restarted.
    """
    lines = record.training
    known = np.isfinite(lines.time_s)
    if not known.any():
        return None
    step, seconds = (
        lines.step[known],
        np.nan_to_num(lines.values["seconds"][known], posinf=0.0, neginf=0.0),
    )
    ends = np.maximum.accumulate(lines.time_s[known])
    began = ends[0] - seconds[0]
    by_end = spending.by(np.concatenate([[began], ends]))
    per_line = np.diff(by_end)
    phases = []
    borders = phase_borders(record)
    for first, last in pairwise(borders):
        inside = (step >= first) & (step < last)
        if inside.any():
            phases.append(
                Phase(
                    first,
                    min(last, int(step[inside].max()) + 1),
                    last_loss(record, first),
                    last_loss(record, last),
                    float(seconds[inside].sum()),
                    float(per_line[inside].sum()),
                )
            )
    return Costs(float(by_end[0]), tuple(phases), spending.total_usd - float(by_end[-1]))
