"""The only parent of a trainer: meters money, watches, asks the guard, stops the child.

    supervisor ── ledger.jsonl     the trainer never touches money
        │  ├───── price.Reader     every 15 minutes, and whenever it would otherwise be the ceiling
        │  ├───── guard.decide     before there is a trainer, then every 10 seconds
        │  └───── keeper           a process that ends the trainer if the supervisor cannot
        └─ trainer                 one SIGTERM asks it to save and to end

The meter of one's own machine runs from the supervisor's first line to its last, that of a rented
one from the machine's start, on a clock that never steps and counts sleep. Silence is counted on
one that stands still in sleep: a laptop that wakes up is not hung.

The trainer has a session of its own, so a Ctrl-C reaches the supervisor alone, which passes it on
once. If the supervisor is killed, Linux sends the trainer the SIGTERM it could not send itself
(PR_SET_PDEATHSIG); elsewhere the trainer sees that its parent is gone. Either way it saves and
ends, and the next supervisor charges the time nobody watched.
"""

import ctypes
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, Self

from x1 import deadman, folder, guard, ledger, mirror, money, plan, price
from x1.clock import instant
from x1.config import RunConfig
from x1.guard import GuardState
from x1.keeper import Keeper, kept
from x1.ledger import Instant, Ledger
from x1.text import UserError, language, say

TICK_S = 0.2  # how often the child and the signals are looked at
CHARGE_EVERY_S = 10.0  # a line in the ledger, and a decision
STOPPING_S = 60.0  # what a checkpoint and a shutdown may take; SIGKILL after that
LATE_S = 5.0  # how late a busy machine may be with all of this
KEEPER_S = 120.0  # what a trainer whose supervisor is gone has for its checkpoint
SET_UP_LIMIT_S = 1800.0  # silence allowed before the first line of metrics.jsonl: compiling
HUNG_S = 300.0  # silence allowed after it, or
HUNG_STEPS = 20  # as many median steps, whichever is longer

GUARDED = 4  # exit code: the guard stopped the run (0, 2, 3 and 130 are the trainer's own)
INTERRUPTED = 130
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def supervise(run: Path, command: list[str] | None = None, i_will_watch: bool = False) -> int:
    """Run a trainer under the guard until it ends; returns the exit code for the shell.

    A rented machine needs a dead-man's limit, armed outside it, or somebody who will watch.

    `command` defaults to `python -m x1.train RUN`. The trainer's own code comes back, or 4 when
    the guard stopped it, 130 when a person did, 128 + n when signal n killed it. Raises UserError,
    with nothing started, if the run is supervised already, a trainer is still at it, its price is
    unknown, its plan is another, its ledger is damaged or missing, or no dead-man's limit is armed.
    """
    began = instant()
    config = folder.open_run(run)
    with folder.locked(run, "supervise"), caught_signals() as signals:
        meter = open_meter(run, config, began)
        why = "refused"
        try:
            progress = Progress.at_end_of(run, time.monotonic())
            decision = guard.decide(observe(meter, progress, instant(), time.monotonic()))
            if decision.action == "stop":
                why = decision.rule
                tell("supervise.not_started", why=say(f"guard.{why}"), run=run)
                return GUARDED
            if not money.hardware(config.money.hardware).own:
                tell_cost(meter, deadman.require(run, config, meter.ledger, began, i_will_watch))
            wait_for_orphan(run, signals)
            if config.checkpoint.mirror:
                meter.copy = mirror.begin(run, config.checkpoint.mirror)
            with kept(run, KEEPER_S) as keeper:
                child = start_child(command or [sys.executable, "-m", "x1.train", str(run)])
                try:
                    keeper.guard(child.pid)
                    rule = watch(meter, child, signals, keeper)
                finally:
                    end_session(child)
            code = exit_code(child.returncode, rule, signals)
            why = rule or f"exit {code}"
        finally:
            if meter.copy is not None:
                mirror.finish(meter.copy)
            close_meter(meter, instant(), why)
            if meter.copy is not None:  # once more, for the ledger's last line
                mirror.finish(meter.copy, LATE_S)
        report_end(meter, child.returncode, rule, signals)
        return code


@dataclass
class Meter:
    """The ledger being written, and what the guard must know about the money."""

    run: Path
    config: RunConfig
    ledger: Ledger
    reader: price.Reader
    price_tried_ms: int
    price_read_ms: int
    usd_per_hour: float  # as last read, possible or not
    copy: mirror.Mirror | None = None
    damaged: bool = False
    over_alert_since_s: float | None = None
    asked_since_s: float | None = None  # the question whether to go on, and
    answered: bool = False  # whether somebody said yes


def open_meter(run: Path, config: RunConfig, at: Instant) -> Meter:
    """Begin the run's ledger or take it up again, and reserve the most it may still cost."""
    reader = price.Reader(config)
    read, digest = reader.read(at), plan.plan_digest(run)
    money.positive("price_usd_per_hour", read.usd_per_hour)
    own = money.hardware(config.money.hardware).own
    if ledger.exists(run):
        if ledger.read_ledger(run).plan_sha256 != digest:
            raise UserError("supervise.other_plan", path=run / folder.PLAN)
        check_prediction(run)
        check_witnesses(run)
        book = ledger.resume(run, at, None if own else deadman.machine_started(at, []))
        book = ledger.set_price(run, book, at, read)
    elif (run / folder.METRICS).exists():
        raise UserError("ledger.missing", path=run / folder.LEDGER)
    else:
        spent = deadman.spent_before(config)
        began = at if own else deadman.machine_started(at, [book for _, book in spent])
        book = open_ledger(run, config, began, read, spent)
        if began != at:
            book = ledger.charge(run, book, at)
    book = reserve_most(run, config, book, at)
    sealed = folder.prediction_digest(run)
    if sealed is not None and book.prediction_sha256 is None:
        book = ledger.seal_prediction(run, book, at, sealed)
    return Meter(run, config, book, reader, price_tried_ms=at.boot_ms, price_read_ms=at.boot_ms,
                 usd_per_hour=book.price.usd_per_hour)  # fmt: skip


def open_ledger(
    run: Path, config: RunConfig, at: Instant, read: ledger.Price, spent: list[tuple[Path, Ledger]]
) -> Ledger:
    """The first lines of a run's ledger: its limits, and the dollars of those that count in it."""
    limits, amounts = config.money, planned_amounts(run, config)
    book = ledger.start(run, at, read, limits.ceiling_usd, limits.lab_budget_usd,
                        plan.plan_digest(run), amounts.get("alert_line_usd"))  # fmt: skip
    for where, other in spent:
        book = ledger.carry(run, book, at, other.spent_usd, str(where))
    return book


def reserve_most(run: Path, config: RunConfig, book: Ledger, at: Instant) -> Ledger:
    """Set aside the most the run may still cost: what its plan says, never more than is left."""
    left_usd = ledger.left_usd(book)
    planned_usd = planned_amounts(run, config).get("reserve_usd", book.ceiling_usd) - float(
        book.spent_usd
    )
    reserve_usd = min(planned_usd, left_usd) if planned_usd > 0 else left_usd
    book = ledger.reserve(run, book, at, reserve_usd)
    return book


def planned_amounts(run: Path, config: RunConfig) -> dict[str, float]:
    """The plan's alert line and reserve, of what this run's ledger will see.

    The plan counts the ladder. Where it is climbed in this run's folder, under this ledger, or its
    own ledger is counted too (`money.counted`) and its dollars are carried into this one, the
    plan's amounts hold as they are; otherwise they are taken out of both, or the run could cost as
    much more before anybody is told.
    """
    if not (run / folder.PLAN).exists():
        return {}
    record = plan.read_plan(run)
    amounts = {name: usd for name, usd in record["money"].items() if usd is not None}
    ladder = next((e["usd"] for e in record.get("lines", []) if e["item"] == "ladder"), None)
    if (run / folder.LADDER).is_dir():
        return amounts
    if ladder and ladder["value"] and not config.money.counted:
        for name, usd in (
            ("alert_line_usd", money.alert_line_usd(ladder["value"])),
            ("reserve_usd", ladder["high"]),
        ):
            if amounts.get(name, 0.0) > usd:
                amounts[name] = money.round_usd(amounts[name] - usd)
    return amounts


def check_prediction(run: Path) -> None:
    """What the run's own ladder predicts is written and sealed before the run, and stays as it is.

    Raises UserError if prediction.json has changed or gone since it was sealed, or comes late.
    """
    sealed, found = ledger.read_ledger(run).prediction_sha256, folder.prediction_digest(run)
    if sealed is None and found is not None and (run / folder.METRICS).exists():
        raise UserError("supervise.late_prediction", path=run / folder.PREDICTION)
    if sealed is not None and sealed != found:
        raise UserError("supervise.other_prediction", path=run / folder.PREDICTION)


def check_witnesses(run: Path) -> None:
    """Every checkpoint carries a checksum of the ledger of its time: it must still be there.

    Raises UserError when lines have been cut off the ledger, or an older copy put in its place.
    """
    kept = ledger.checksums(run)
    for path in sorted((run / folder.CHECKPOINTS).glob("step-*/state.json")):
        try:
            witness = folder.read_json(path).get("ledger_checksum")
        except UserError:
            continue  # a damaged checkpoint is the trainer's to report
        if witness is not None and witness not in kept:
            raise UserError("ledger.cut", path=run / folder.LEDGER, checkpoint=path.parent)


def read_price(meter: Meter, at: Instant) -> None:
    """Read the price again, and charge what it has risen by; an impossible one is the guard's."""
    meter.price_tried_ms = at.boot_ms
    with suppress(UserError):
        read = meter.reader.read(at)
        meter.price_read_ms, meter.usd_per_hour = at.boot_ms, read.usd_per_hour
        if price.is_possible(read.usd_per_hour):
            write(meter, lambda: ledger.set_price(meter.run, meter.ledger, at, read))


def charge(meter: Meter, at: Instant) -> None:
    """Charge up to now; every 15 minutes read the price, and the whole ledger, again."""
    write(meter, lambda: ledger.charge(meter.run, meter.ledger, at))
    if at.boot_ms - meter.price_tried_ms >= 1000 * guard.PRICE_EVERY_S:
        check_ledger(meter)
        read_price(meter, at)


def check_ledger(meter: Meter) -> None:
    try:
        meter.damaged |= ledger.read_ledger(meter.run) != meter.ledger
    except (UserError, OSError):
        meter.damaged = True


def write(meter: Meter, line: Callable[[], Ledger]) -> None:
    """A line in the ledger. One that cannot be written, or is no longer what was written, is
    `damaged` from then on."""
    try:
        meter.ledger = line()
    except (UserError, OSError):
        meter.damaged = True


def close_meter(meter: Meter, at: Instant, why: str) -> None:
    """Charge up to now and stop the meter, if the ledger still takes it."""
    write(meter, lambda: ledger.close(meter.run, meter.ledger, at, why))


@dataclass
class Progress:
    """What the end of metrics.jsonl says, and when the trainer last showed a sign of life."""

    run: Path
    started_s: float
    seen_s: float
    offset: int
    sizes: tuple[int, ...]
    step: int = 0
    tokens: int = 0
    steps_seen: int = 0
    rates: deque[tuple[float, float, float]] = field(default_factory=deque)

    @classmethod
    def at_end_of(cls, run: Path, now_s: float) -> Self:
        """From here on: earlier lines only say how far the run had come."""
        path = run / folder.METRICS
        done = [line for line in folder.read_lines(path) if "tokens" in line]
        here = cls(run, now_s, now_s, path.stat().st_size if path.exists() else 0, _sizes(run))
        if done:
            here.step, here.tokens = done[-1]["step"], done[-1]["tokens"]
        return here

    def read(self, now_s: float) -> None:
        """Take in what has been written since. Any growth of a log is a sign of life."""
        sizes = _sizes(self.run)
        if sizes == self.sizes:
            return
        self.sizes, self.seen_s = sizes, now_s
        path = self.run / folder.METRICS
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole + newline)
        for line in whole.split(b"\n"):
            with suppress(ValueError, KeyError, TypeError):
                self._take(json.loads(line), now_s)
        while len(self.rates) > 1 and self.rates[0][0] < now_s - guard.RATE_WINDOW_S:
            self.rates.popleft()

    def _take(self, line: dict[str, Any], now_s: float) -> None:
        if "val_loss" in line:
            return
        clock = line["clock"]
        self.rates.append((now_s, float(clock["tokens_per_s"]), float(clock["seconds"])))
        self.step, self.tokens = int(line["step"]), int(line["tokens"])

    @property
    def tokens_per_s(self) -> float | None:
        """Median over the last 30 minutes of training; None before this start's first step."""
        return median(rate for _, rate, _ in self.rates) if self.rates else None

    @property
    def limit_s(self) -> float:
        """The silence that counts as hanging."""
        if not self.rates:
            return SET_UP_LIMIT_S
        return max(HUNG_S, HUNG_STEPS * median(seconds for _, _, seconds in self.rates))


def _sizes(run: Path) -> tuple[int, ...]:
    names = (folder.METRICS, folder.EVENTS, folder.SAMPLES, folder.EVALUATION)
    rungs = sorted((run / folder.LADDER).glob("runs/*"))  # of its own ladder, trained before it
    logs = [place / name for place in (run, *rungs) for name in names]
    return tuple(log.stat().st_size if log.exists() else 0 for log in logs)


def observe(meter: Meter, progress: Progress, at: Instant, now_s: float) -> GuardState:
    """Everything the guard's decision depends on, as it stands."""
    book, config = meter.ledger, meter.config
    rented = not money.hardware(config.money.hardware).own
    state = GuardState(
        spent_usd=float(book.spent_usd),
        ceiling_usd=book.ceiling_usd,
        alert_line_usd=book.alert_line_usd,
        price_usd_per_hour=meter.usd_per_hour,
        price_age_s=(at.boot_ms - meter.price_read_ms) / 1000,
        stopping_s=STOPPING_S
        + CHARGE_EVERY_S
        + LATE_S
        + price.TIMEOUT_S
        + (mirror.FLUSH_S + LATE_S if config.checkpoint.mirror else 0.0)
        + (deadman.MARGIN_S if rented else 0.0),  # all is over before the timer ends the machine
        running_s=now_s - progress.started_s,
        tokens_done=progress.tokens,
        tokens_total=config.tokens,
        tokens_per_s=progress.tokens_per_s,
        over_alert_s=0.0,
        progress_age_s=now_s - progress.seen_s,
        progress_limit_s=progress.limit_s,
        ledger_damaged=meter.damaged,
        policy=config.money.on_alert,
        attended=is_attended(meter, now_s),
    )
    if not guard.over_alert_line(state):
        meter.over_alert_since_s = meter.asked_since_s = None
        meter.answered = False
        return state
    if meter.over_alert_since_s is None:
        meter.over_alert_since_s = now_s
    return replace(state, over_alert_s=now_s - meter.over_alert_since_s)


def is_attended(meter: Meter, now_s: float) -> bool:
    """Whether somebody is at the terminal, as far as one can tell: an open question that nobody
    has answered for 15 minutes says no."""
    if sys.stdin is None or not sys.stdin.isatty():
        return False
    if os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp():  # in the background: it cannot ask
        return False
    asked_s = meter.asked_since_s
    return meter.answered or asked_s is None or now_s - asked_s < guard.ANSWER_S


def turn(
    meter: Meter, progress: Progress, at: Instant, now_s: float
) -> tuple[GuardState, guard.Decision]:
    """Charge, look, decide. At the ceiling an old price is read again before it decides."""
    charge(meter, at)
    progress.read(now_s)
    state = observe(meter, progress, at, now_s)
    decision = guard.decide(state)
    if decision.rule == "ceiling" and state.price_age_s > 0:
        read_price(meter, at)
        state = observe(meter, progress, at, now_s)
        decision = guard.decide(state)
    return state, decision


@dataclass
class Signals:
    """How many signals asked for an end, and whether somebody tried to suspend us."""

    asked: int = 0
    suspended: bool = False


@contextmanager
def caught_signals() -> Iterator[Signals]:
    """Remember Ctrl-C, SIGTERM and a closed terminal instead of dying of them.

    Ctrl-Z is refused: a supervisor that sleeps meters nothing, and its trainer would go on.
    """
    caught = Signals()

    def end(number: int, frame: FrameType | None) -> None:
        caught.asked += 1

    def suspend(number: int, frame: FrameType | None) -> None:
        caught.suspended = True

    handlers: dict[int, Callable[[int, FrameType | None], None]] = {
        signal.SIGINT: end, signal.SIGTERM: end, signal.SIGHUP: end, signal.SIGTSTP: suspend,
    }  # fmt: skip
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if number != signal.SIGHUP or before[number] != signal.SIG_IGN:  # nohup stays in force
            signal.signal(number, handler)
    try:
        yield caught
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def wait_for_orphan(run: Path, signals: Signals) -> None:
    """Let the trainer of a killed supervisor finish its checkpoint before another one starts.

    Raises UserError, naming the process, if it is still there after `STOPPING_S`.
    """
    deadline_s = time.monotonic() + STOPPING_S
    told = False
    while True:
        try:
            with folder.locked(run):
                return
        except UserError:
            if signals.asked or time.monotonic() > deadline_s:
                raise
        if not told:
            tell("supervise.orphan", run=run)
            told = True
        time.sleep(TICK_S)


def start_child(command: list[str]) -> subprocess.Popen[bytes]:
    """The trainer, in its own session, writing to this terminal."""
    supervisor = os.getpid()
    # Looked up here: between fork and exec only what is already loaded is safe.
    prctl = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def follow_parent() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # killed before the line above could take effect
            os._exit(INTERRUPTED)

    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=follow_parent,
    )


def end_session(child: subprocess.Popen[bytes]) -> None:
    """Leave nothing of the trainer behind: its workers, or itself if we are failing."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def watch(
    meter: Meter, child: subprocess.Popen[bytes], signals: Signals, keeper: Keeper
) -> str | None:
    """Until the child ends: meter, decide, pass signals on. Returns the rule that stopped it."""
    progress = Progress.at_end_of(meter.run, time.monotonic())
    decided_ms = instant().boot_ms
    heard, alerted = 0, False
    told_to_stop = False
    rule: str | None = None
    kill_at_s = float("inf")
    while child.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(TICK_S)
            break
        if signals.suspended:
            signals.suspended = False
            tell("supervise.no_suspend")
        if signals.asked > heard:
            heard = signals.asked
            if not told_to_stop:
                child.terminate()
                told_to_stop = True
                tell("supervise.stopping")
            elif heard < 3:
                tell("supervise.waiting")
            else:
                tell("supervise.killing")
                child.kill()
        if time.monotonic() > kill_at_s:
            tell("supervise.too_late", seconds=f"{STOPPING_S:g}")
            child.kill()
            kill_at_s = float("inf")

        at = instant()
        if at.boot_ms - decided_ms < 1000 * CHARGE_EVERY_S:
            continue
        decided_ms = at.boot_ms
        keeper.hear()
        state, decision = turn(meter, progress, at, time.monotonic())
        if meter.copy is not None and meter.copy.superseded:
            decision = guard.Decision("stop", "superseded")
        if decision.action == "alert" and not alerted:
            raise_alert(meter, state)
        if decision.action == "alert" and state.policy == "ask":
            ask(meter, time.monotonic())
        alerted = decision.action == "alert"
        if decision.action == "stop" and rule is None:
            rule = decision.rule
            record(meter.run, "stop", step=progress.step, reason="guard", rule=rule)
            tell("supervise.guard", why=say(f"guard.{rule}"))
            kill_at_s = time.monotonic() + STOPPING_S
            if not told_to_stop:
                child.terminate()
                told_to_stop = True
    return rule


def raise_alert(meter: Meter, state: GuardState) -> None:
    projection_usd, line_usd = guard.projection_usd(state), state.alert_line_usd or 0.0
    record(meter.run, "alert", rule="alert-line", alert_line_usd=line_usd,
           projection_usd=projection_usd)  # fmt: skip
    tell("supervise.alert", projection=money.usd(projection_usd), line=money.usd(line_usd))


def ask(meter: Meter, now_s: float) -> None:
    """Ask at the terminal whether to go on, once; later, see whether somebody has answered."""
    if meter.asked_since_s is None:
        meter.asked_since_s = now_s
        tell("supervise.ask", minutes=f"{guard.ANSWER_S / 60:g}")
    elif not meter.answered and select.select([sys.stdin], [], [], 0)[0]:
        meter.answered = bool(sys.stdin.readline())
        if meter.answered:
            tell("supervise.goes_on")


def tell_cost(meter: Meter, limit: str) -> None:
    """The plan's cost sentence, with what ends the machine if all else fails."""
    spent_usd = float(meter.ledger.spent_usd)
    if (meter.run / folder.PLAN).exists():
        sentence = plan.read_plan(meter.run).get("sentence", {}).get(language())
        limit = f"{sentence} {limit}" if sentence else limit
    tell("supervise.before", spent=money.usd(spent_usd), sentence=limit)


def report_end(meter: Meter, returncode: int, rule: str | None, signals: Signals) -> None:
    """How it ended, how to go on, and what it has cost."""
    again = shlex.join(["x1", "train", "--out", str(meter.run)])
    if rule and returncode:
        tell("supervise.guarded", why=say(f"guard.{rule}"), again=again)
    elif returncode < 0 and signals.asked:
        tell("supervise.interrupted", again=again)
    elif returncode < 0:
        tell("supervise.killed", signal=signal.Signals(-returncode).name, again=again)
    if meter.copy is not None:
        mirror.report(meter.copy)
    if meter.damaged:
        tell("supervise.unmetered", path=meter.run / folder.LEDGER)
        return
    book = meter.ledger
    source = meter.reader.source(book.price, language())
    tell("supervise.spent", spent=money.usd(float(book.spent_usd)), source=source,
         ceiling=money.usd(book.ceiling_usd), path=meter.run / folder.LEDGER)  # fmt: skip


def exit_code(returncode: int, rule: str | None, signals: Signals) -> int:
    """The shell's exit code: the trainer's own unless something else ended it."""
    if returncode == 0:
        return 0
    if rule:
        return GUARDED
    if returncode > 0:
        return returncode
    return INTERRUPTED if signals.asked else 128 - returncode


def tell(key: str, **values: Any) -> None:
    """A sentence on standard error; a terminal that is gone is no reason to stop metering."""
    with suppress(OSError, ValueError):
        print(say(key, **values), file=sys.stderr, flush=True)


def record(run: Path, event: str, **fields: Any) -> None:
    """An event, unless the disk is full: the child must still be stopped then."""
    with suppress(OSError):
        folder.record_event(run, event, **fields)
