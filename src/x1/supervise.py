"""The only parent of a trainer: meters money, watches, asks the guard, stops the child.

    supervisor ── ledger.jsonl     the trainer never touches money
        │  └───── guard.decide     before there is a trainer, then every 10 seconds
        └─ trainer                 one SIGTERM asks it to save and to end

The meter runs from the supervisor's first line to its last, on a clock that never steps and counts
sleep. Silence is counted on one that stands still in sleep: a laptop that wakes up is not hung.

The trainer has a session of its own, so a Ctrl-C reaches the supervisor alone, which passes it on
once. If the supervisor is killed, Linux sends the trainer the SIGTERM it could not send itself
(PR_SET_PDEATHSIG); elsewhere the trainer sees that its parent is gone. Either way it saves and
ends, and the next supervisor charges the time nobody watched.
"""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, Self

from x1 import folder, guard, ledger, money, plan
from x1.config import RunConfig
from x1.guard import GuardState
from x1.ledger import Instant, Ledger, Price
from x1.text import UserError, say

TICK_S = 0.2  # how often the child and the signals are looked at
CHARGE_EVERY_S = 10.0  # a line in the ledger, and a decision
STOPPING_S = 60.0  # what a checkpoint and a shutdown may take; SIGKILL after that
LATE_S = 5.0  # how late a busy machine may be with all of this
SET_UP_LIMIT_S = 1800.0  # silence allowed before the first line of metrics.jsonl: compiling
HUNG_S = 300.0  # silence allowed after it, or
HUNG_STEPS = 20  # as many median steps, whichever is longer

GUARDED = 4  # exit code: the guard stopped the run (0, 2, 3 and 130 are the trainer's own)
INTERRUPTED = 130
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def supervise(run: Path, command: list[str] | None = None) -> int:
    """Run a trainer under the guard until it ends; returns the exit code for the shell.

    `command` defaults to `python -m x1.train RUN`. The trainer's own code comes back, or 4 when
    the guard stopped it, 130 when a person did, 128 + n when signal n killed it. Raises UserError,
    with nothing started, if the run is supervised already, a trainer is still at it, its price is
    unknown, its plan is another, or its ledger is damaged or missing.
    """
    began = instant()
    config = folder.open_run(run)
    with folder.locked(run, "supervise"), caught_signals() as signals:
        meter = open_meter(run, config, began)
        why = "refused"
        try:
            decision = guard.decide(observe(meter, Progress.at_end_of(run), instant()))
            if decision.action == "stop":
                why = decision.rule
                tell("supervise.not_started", why=say(f"guard.{why}"), run=run)
                return GUARDED
            wait_for_orphan(run, signals)
            child = start_child(command or [sys.executable, "-m", "x1.train", str(run)])
            try:
                rule = watch(meter, child, signals)
            finally:
                end_session(child)
            code = exit_code(child.returncode, rule, signals)
            why = rule or f"exit {code}"
        finally:
            close_meter(meter, why)
        report_end(meter, child.returncode, rule, signals)
        return code


def instant() -> Instant:
    """Now: wall time, and a clock that runs through sleep (on macOS CLOCK_MONOTONIC does)."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return Instant(
        wall_ms=time.time_ns() // 1_000_000,
        boot_ms=time.clock_gettime_ns(clock) // 1_000_000,
        boot_id=boot_id(),
    )


@cache
def boot_id() -> str:
    """Under which name this boot's clock may be compared; where none exists, this process's."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return uuid.uuid4().hex


@dataclass
class Meter:
    """The ledger being written, and what the guard must know about the money."""

    run: Path
    config: RunConfig
    ledger: Ledger
    price_tried_ms: int
    price_read_ms: int
    damaged: bool = False
    over_alert_since_s: float | None = None


def read_price(config: RunConfig) -> Price:
    """The price in force: rent, or the electricity of one's own machine.

    Raises UserError for a rented machine without a price.
    """
    machine, asked = money.hardware(config.money.hardware), config.money
    if machine.own:
        watts = asked.watts or machine.watts
        usd_per_hour = money.electricity_usd(1.0, watts, asked.tariff_usd_per_kwh)
        return Price(round(usd_per_hour, 9), electricity(config, "en"), asked.price_date)
    offer = money.configured_price(config)
    if offer is None:
        raise UserError("supervise.no_price", hardware=machine.name)
    source = offer.source or offer.provider or offer.kind
    return Price(offer.usd_per_hour, source, offer.day.isoformat())


def electricity(config: RunConfig, lang: str | None = None) -> str:
    """Where the price of one's own machine comes from, in words."""
    watts = config.money.watts or money.hardware(config.money.hardware).watts
    key = "stated" if config.money.watts else "assumed"
    tariff = config.money.tariff_usd_per_kwh
    return say(f"supervise.watts_{key}", lang, watts=f"{watts:g}", tariff=f"{tariff:g}")


def open_meter(run: Path, config: RunConfig, at: Instant) -> Meter:
    """Begin the run's ledger or take it up again, and reserve the most it may still cost."""
    price, digest = read_price(config), plan.plan_digest(run)
    amounts = plan.read_plan(run)["money"] if digest else {}
    if ledger.exists(run):
        if ledger.read_ledger(run).plan_sha256 != digest:
            raise UserError("supervise.other_plan", path=run / folder.PLAN)
        own = money.hardware(config.money.hardware).own
        book = ledger.resume(run, at, billed_when_closed=not own)
    elif (run / folder.METRICS).exists():
        raise UserError("ledger.missing", path=run / folder.LEDGER)
    else:
        limits = config.money
        book = ledger.start(run, at, price, limits.ceiling_usd, limits.lab_budget_usd, digest,
                            amounts.get("alert_line_usd"))  # fmt: skip
    meter = Meter(run, config, book, price_tried_ms=at.boot_ms, price_read_ms=at.boot_ms)
    apply_price(meter, price, at)
    left_usd = ledger.left_usd(meter.ledger)
    planned_usd = amounts.get("reserve_usd") or left_usd
    meter.ledger = ledger.reserve(run, meter.ledger, at, min(planned_usd, left_usd))
    return meter


def apply_price(meter: Meter, price: Price, at: Instant) -> None:
    in_force = meter.ledger.price
    if (price.usd_per_hour, price.source) != (in_force.usd_per_hour, in_force.source):
        meter.ledger = ledger.set_price(meter.run, meter.ledger, at, price)


def charge(meter: Meter, at: Instant) -> None:
    """Charge up to now; every 15 minutes read the price, and the whole ledger, again.

    A ledger that cannot be written, or is no longer what was written, is `damaged` from then on.
    """
    try:
        meter.ledger = ledger.charge(meter.run, meter.ledger, at)
        if at.boot_ms - meter.price_tried_ms < 1000 * guard.PRICE_EVERY_S:
            return
        meter.price_tried_ms = at.boot_ms
        if ledger.read_ledger(meter.run) != meter.ledger:
            meter.damaged = True
        with suppress(UserError):
            price = read_price(meter.config)
            meter.price_read_ms = at.boot_ms
            apply_price(meter, price, at)
    except (UserError, OSError):
        meter.damaged = True


def close_meter(meter: Meter, why: str) -> None:
    """Charge up to now and stop the meter, if the ledger still takes it."""
    try:
        meter.ledger = ledger.close(meter.run, meter.ledger, instant(), why)
    except (UserError, OSError):
        meter.damaged = True


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
    def at_end_of(cls, run: Path) -> Self:
        """From here on: earlier lines only say how far the run had come."""
        now_s = time.monotonic()
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
    logs = (run / folder.METRICS, run / folder.EVENTS, run / folder.SAMPLES)
    return tuple(log.stat().st_size if log.exists() else 0 for log in logs)


def observe(meter: Meter, progress: Progress, at: Instant) -> GuardState:
    """Everything the guard's decision depends on, as it stands."""
    now_s = time.monotonic()
    book, config = meter.ledger, meter.config
    state = GuardState(
        spent_usd=float(book.spent_usd),
        ceiling_usd=book.ceiling_usd,
        alert_line_usd=book.alert_line_usd,
        price_usd_per_hour=book.price.usd_per_hour,
        price_age_s=(at.boot_ms - meter.price_read_ms) / 1000,
        stopping_s=STOPPING_S + CHARGE_EVERY_S + LATE_S,
        running_s=now_s - progress.started_s,
        tokens_done=progress.tokens,
        tokens_total=config.tokens,
        tokens_per_s=progress.tokens_per_s,
        over_alert_s=0.0,
        progress_age_s=now_s - progress.seen_s,
        progress_limit_s=progress.limit_s,
        ledger_damaged=meter.damaged,
        policy=config.money.on_alert,
        attended=sys.stdin is not None and sys.stdin.isatty(),
    )
    if not guard.over_alert_line(state):
        meter.over_alert_since_s = None
        return state
    if meter.over_alert_since_s is None:
        meter.over_alert_since_s = now_s
    return replace(state, over_alert_s=now_s - meter.over_alert_since_s)


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


def watch(meter: Meter, child: subprocess.Popen[bytes], signals: Signals) -> str | None:
    """Until the child ends: meter, decide, pass signals on. Returns the rule that stopped it."""
    progress = Progress.at_end_of(meter.run)
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
        charge(meter, at)
        progress.read(time.monotonic())
        state = observe(meter, progress, at)
        decision = guard.decide(state)
        if decision.action == "alert" and not alerted:
            raise_alert(meter, state)
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


def report_end(meter: Meter, returncode: int, rule: str | None, signals: Signals) -> None:
    """How it ended, how to go on, and what it has cost."""
    again = shlex.join(["x1", "train", "--out", str(meter.run)])
    if rule and returncode:
        tell("supervise.guarded", why=say(f"guard.{rule}"), again=again)
    elif returncode < 0 and signals.asked:
        tell("supervise.interrupted", again=again)
    elif returncode < 0:
        tell("supervise.killed", signal=signal.Signals(-returncode).name, again=again)
    if meter.damaged:
        tell("supervise.unmetered", path=meter.run / folder.LEDGER)
        return
    book = meter.ledger
    own = money.hardware(meter.config.money.hardware).own
    source = electricity(meter.config) if own else book.price.source
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
