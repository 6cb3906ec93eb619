"""Hostile histories of runs, driven through the real meter, price reader, ledger files and guard:
python benchmarks/guard_simulation.py --out docs/measured/guard.json

Each history is one run on rented machines: prices rise up to threefold and fall, machines are
preempted with and without notice, hours are slow, clocks jump, ledgers lose lines, trainers hang,
supervisors and hosts are killed, price sources fall silent or say nonsense. Only the clock, the
trainer and the provider are simulated. What the provider bills is added up apart, from the prices
it set and the hours its machines were up, and nothing of ours takes part in it.

Asked of every history: is the bill below the ceiling? Asked of one without damage: if the guard
stopped it, did the projection or the ceiling rule hold, by figures kept apart? Asked of a damaged
one: which rule stopped it?
"""

import argparse
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from provenance import provenance

from x1 import clock, deadman, folder, guard, ledger, supervise
from x1 import config as configuration
from x1.ledger import Instant
from x1.price import Reader
from x1.text import UserError

TURN_S = 60.0  # a decision a minute in place of one in 10 s: a sixth of the work, a wider margin
READ_EVERY_S = 240.0  # the timer's, in place of a minute, for the same reason
BATCH = 250
HOUR = 3600.0
TOKENS_PER_S = 100_000.0
EPOCH_MS = 1_790_000_000_000
HARDWARE = "a100-80gb"
DAMAGE = (
    "supervisor-killed", "host-killed", "lines-lost", "ledger-edited", "trainer-hung",
    "price-unreadable", "price-impossible", "clock-set-back", "clock-stepped",
)  # fmt: skip
# Events per hour of a history; the damage is drawn in two histories out of three.
HARMLESS = {"preempted": 0.25, "preempted-at-once": 0.25, "restarted": 0.25, "line-torn": 0.15}


@dataclass
class Machine:
    """One boot of a rented machine: when it began to be billed, and its clocks."""

    started_s: float
    booted_s: float
    boot_id: str
    wall_skew_s: float

    def instant(self, now_s: float) -> Instant:
        wall_ms = EPOCH_MS + round(1000 * (now_s + self.wall_skew_s))
        return Instant(wall_ms, round(1000 * (now_s - self.booted_s)), self.boot_id)


@dataclass
class World:
    """What is true, whoever knows it."""

    prices: list[tuple[float, float]]  # (from when on, dollars per hour)
    slow: tuple[float, float, float]  # (from, to, factor)
    billed: list[list[float]] = field(default_factory=list)  # [from, to]

    def price(self, now_s: float) -> float:
        return next(usd for begins_s, usd in reversed(self.prices) if begins_s <= max(now_s, 0.0))

    def bill_usd(self) -> float:
        """What the provider bills: every second of every machine at the price of that second."""
        borders = [begins_s for begins_s, _ in self.prices] + [math.inf]
        return sum(
            usd * max(min(to_s, borders[i + 1]) - max(from_s, begins_s), 0.0) / HOUR
            for from_s, to_s in self.billed
            for i, (begins_s, usd) in enumerate(self.prices)
        )

    def speed(self, now_s: float) -> float:
        from_s, to_s, factor = self.slow
        return TOKENS_PER_S * (factor if from_s <= now_s < to_s else 1.0)


@dataclass
class Books:
    """Figures kept apart, for asking afterwards whether a rule held.

    `upper_usd` bounds what may be owed as far as anybody but the provider can know it: all the time
    since the first machine, except between a return and the next machine, each stretch at the
    dearer of the readings at its ends.
    """

    closed: list[tuple[float, float]] = field(default_factory=list)
    readings: list[tuple[float, float]] = field(default_factory=list)
    turns: list[tuple[float, float, int, float]] = field(default_factory=list)

    def upper_usd(self, now_s: float) -> float:
        total = 0.0
        for (a_s, usd), (b_s, later) in zip(
            self.readings, [*self.readings[1:], (now_s, 0.0)], strict=True
        ):
            b_s = min(b_s, now_s)
            seconds = b_s - a_s - sum(max(min(b_s, e) - max(a_s, s), 0.0) for s, e in self.closed)
            total += max(usd, later) * max(seconds, 0.0) / HOUR
        return total


class History:
    """One run from its first machine to its last, minute by minute."""

    def __init__(self, seed: str, place: Path) -> None:
        self.chance = chance = random.Random(seed)
        self.run = place
        self.run.mkdir(parents=True)
        self.offers = place / "prices.toml"
        self.said: str | None = ""
        self.end_s = 12 * HOUR
        usd = chance.uniform(1.0, 4.0)
        hours = chance.uniform(0.4, 1.6)
        self.ceiling_usd = usd * hours * chance.uniform(0.9, 2.5)
        self.silences: list[tuple[float, float, str | None]] = []
        self.events, self.damage = self._events(hours)
        self.world = World(self._prices(usd), self._slow())
        self.config = configuration.validate({
            "train": {"steps": max(round(TOKENS_PER_S * hours * HOUR / 8192), 1)},
            "money": {
                "hardware": HARDWARE, "price_source": f"file:{self.offers}",
                "ceiling_usd": self.ceiling_usd, "lab_budget_usd": self.ceiling_usd,
                "on_alert": chance.choice(["ask", "ask", "stop", "continue"]),
            },
        })  # fmt: skip
        plan_usd = usd * (hours + 0.2)
        self.alert_usd = round(1.2 * plan_usd, 4)
        amounts = {"alert_line_usd": self.alert_usd, "reserve_usd": self.ceiling_usd}
        folder.write_json(place / folder.PLAN, {"format": "x1-plan-1", "money": amounts})
        self.books = Books()
        self.tokens, self.step, self.boots = 0, 0, 0
        self.limit: deadman.Limit | None = None
        self.tail_cut = 0
        self.hung = False
        self.stop: str | None = None
        self.guarded_alive, self.rule_held = False, False

    # ---- What will happen

    def _prices(self, usd: float) -> list[tuple[float, float]]:
        """Up to four changes, each lasting at least the 15 minutes between two readings.

        A history whose price source fails has prices within a factor of three: more than that is
        not covered while nothing can be read.
        """
        prices, now_s, lowest = [(0.0, usd)], 0.0, usd
        bounded = any(kind.startswith("price") for kind in self.damage)
        for _ in range(self.chance.choice([0, 0, 1, 2, 3, 4])):
            now_s += self.chance.uniform(guard.PRICE_EVERY_S + 10, 1.5 * HOUR)
            factor = self.chance.choice([3.0, self.chance.uniform(1, 3), 0.5])
            usd = min(max(usd * factor, lowest), 3 * lowest) if bounded else usd * factor
            prices.append((now_s, usd))
        return prices

    def _slow(self) -> tuple[float, float, float]:
        if self.chance.random() < 0.7:
            return (0.0, 0.0, 1.0)
        begins_s = self.chance.uniform(0, 1.5 * HOUR)
        return (
            begins_s,
            begins_s + self.chance.uniform(0.5, 1.5) * HOUR,
            self.chance.uniform(0.1, 0.6),
        )

    def _events(self, hours: float) -> tuple[list[tuple[float, str]], set[str]]:
        found = []
        for kind, rate in HARMLESS.items():
            now_s = self.chance.expovariate(rate) * HOUR
            while now_s < self.end_s:
                found.append((now_s, kind))
                now_s += self.chance.expovariate(rate) * HOUR
        damage: set[str] = set()
        if self.chance.random() < 2 / 3:
            for _ in range(self.chance.choice([1, 1, 2, 3])):
                kind = self.chance.choice(DAMAGE)
                when_s = self.chance.uniform(0.1, 1.2) * hours * HOUR
                damage.add(kind)
                if kind.startswith("price"):
                    said = self.chance.choice(["0", "-1.5", "nan", "inf"])
                    length_s = self.chance.uniform(0.3, 2) * HOUR
                    self.silences.append(
                        (when_s, when_s + length_s, said if kind.endswith("impossible") else None)
                    )
                else:
                    found.append((when_s, kind))
        return sorted(found), damage

    # ---- The provider and the clocks

    def say_price(self, now_s: float) -> None:
        """What the price source says at this moment."""
        said: str | None = repr(self.world.price(now_s))
        for from_s, to_s, instead in self.silences:
            if from_s <= now_s < to_s:
                said = instead
        if said == self.said:
            return
        self.said = said
        if said is None:
            self.offers.write_text("the page has moved")
            return
        self.offers.write_text(
            f'format="x1-prices-1"\n[[offer]]\nhardware="{HARDWARE}"\n'
            f"usd_per_hour={said}\ndate=2026-11-01\n"
        )

    def boot(self, now_s: float, started_s: float, skew_s: float) -> Machine:
        self.boots += 1
        machine = Machine(started_s, now_s, f"boot-{self.boots}", skew_s)
        clock.process_start_ms = lambda pid: 0
        return machine

    def rent(self, now_s: float) -> Machine:
        """A new machine, its timer armed before anything runs on it."""
        self.world.billed.append([now_s, math.inf])
        machine = self.boot(now_s, now_s, self.chance.uniform(-0.4, 0.4))
        self.say_price(now_s)
        at = self.office.instant(now_s)
        before = {"status": "disarmed", "left_usd": self.limit.left_usd} if self.limit else {}
        self.watcher = Reader(self.config)
        try:
            usd = self.watcher.read(at).usd_per_hour
            left = deadman.left_usd(self.run, self.config, before, at)
        except UserError as fault:
            raise Refused(fault.key) from None
        if not (math.isfinite(usd) and usd > 0):
            raise Refused("price")
        self.limit = deadman.Limit(left, usd)
        if deadman.has_passed(self.limit):
            self.judge("nothing-left", now_s)
            raise Refused("nothing-left")
        self.limit_s, self.limit_read_s = now_s, now_s
        return machine

    def give_back(self, now_s: float) -> None:
        """The machine is gone, and its timer is disarmed."""
        if self.timer(now_s):
            raise self.dead(now_s)
        self.world.billed[-1][1] = min(self.world.billed[-1][1], now_s)

    def timer(self, to_s: float) -> bool:
        """The detached timer until `to_s`; True when it has ended the machine before."""
        assert self.limit is not None
        while self.limit_s < to_s:
            usd = self.limit.usd_per_hour
            far = self.limit.left_usd > 6 * usd * (10 * deadman.END_S + self.limit.unread_s) / HOUR
            step_s = min(60.0 if far else deadman.POLL_S, to_s - self.limit_s)
            self.limit_s += step_s
            self.limit = deadman.advance(self.limit, step_s)
            due = self.limit_s - self.limit_read_s >= deadman.READ_EVERY_S
            if due or deadman.has_passed(self.limit):
                self.say_price(self.limit_s)
                self.limit_read_s = self.limit_s
                read = deadman.read_usd_per_hour(self.watcher, self.office.instant(self.limit_s))
                self.limit = deadman.advance(self.limit, 0.0, read)
            if deadman.has_passed(self.limit):
                late_s = self.chance.uniform(0, deadman.END_S - deadman.POLL_S)
                self.world.billed[-1][1] = self.limit_s + late_s
                return True
        return False

    # ---- A life

    def live(self) -> None:
        self.office = Machine(0.0, -1000.0, "office", 0.0)
        now_s = 0.0
        try:
            machine = self.rent(now_s)
            now_s += self.chance.uniform(120, 600)
            while self.stop is None:
                machine, now_s = self.session(machine, now_s)
        except Refused as refused:
            self.stop = self.stop or refused.why
            self.after(now_s)
        if self.world.billed[-1][1] == math.inf:
            raise RuntimeError("a machine was left running")

    def after(self, now_s: float) -> None:
        """The run has ended: somebody gives the machine back, or the timer does."""
        if self.world.billed[-1][1] < math.inf:
            return
        careless = self.chance.random() < 0.3
        back_s = now_s + (
            self.chance.uniform(0, 8 * HOUR) if careless else self.chance.uniform(0, 30)
        )
        if not self.timer(back_s):
            self.give_back(back_s)

    def open(self, machine: Machine, now_s: float) -> tuple[supervise.Meter, supervise.Progress]:
        self.say_price(now_s)
        if self.tail_cut:
            cut_tail(self.run / folder.LEDGER, self.tail_cut)
            self.tail_cut = 0
        try:
            meter = supervise.open_meter(self.run, self.config, machine.instant(now_s))
        except UserError as fault:
            raise Refused(fault.key) from None
        self.note_reading(meter, machine.started_s if not self.books.readings else now_s)
        return meter, supervise.Progress.at_end_of(self.run, now_s)

    def note_reading(self, meter: supervise.Meter, now_s: float) -> None:
        if not self.books.readings or meter.usd_per_hour != self.books.readings[-1][1]:
            self.books.readings.append((now_s, meter.ledger.price.usd_per_hour))
        elif meter.price_read_ms == meter.ledger.at.boot_ms:
            self.books.readings.append((now_s, meter.usd_per_hour))

    def session(self, machine: Machine, now_s: float) -> tuple[Machine, float]:
        """From a start of the supervisor to its end; returns the machine and time of the next."""
        if self.timer(now_s):
            raise self.dead(now_s)
        meter, progress = self.open(machine, now_s)
        state = supervise.observe(meter, progress, machine.instant(now_s), now_s)
        decision = guard.decide(state)
        if decision.action == "stop":
            self.judge(decision.rule, now_s)
            supervise.close_meter(meter, machine.instant(now_s), decision.rule)
            raise Refused(decision.rule)
        self.hung = False
        self.first_step_s = now_s + self.chance.uniform(20, 200)
        self.rates: list[tuple[float, float]] = []
        self.started_s, self.books.turns, turns = now_s, [], 0
        while True:
            before_s = now_s
            now_s += TURN_S + self.chance.uniform(0, supervise.LATE_S)
            event = self.next_event(before_s, now_s)
            if event and event[1] in OUTAGES:
                return OUTAGES[event[1]](self, meter, machine, max(event[0], before_s))
            if event:
                machine = self.happen(event[1], machine)
            if self.timer(now_s):
                raise self.dead(now_s, alive=True)
            self.train(before_s, now_s)
            self.say_price(now_s)
            tried_ms = meter.price_read_ms
            state, decision = supervise.turn(meter, progress, machine.instant(now_s), now_s)
            if meter.price_read_ms != tried_ms:
                self.note_reading(meter, now_s)
            self.note_turn(state, now_s)
            if decision.action == "stop":
                self.judge(decision.rule, now_s)
                now_s += self.chance.uniform(1, supervise.STOPPING_S + supervise.LATE_S)
                self.end(meter, machine, now_s, decision.rule)
                return machine, now_s
            if self.tokens >= self.config.tokens:
                self.end(meter, machine, now_s, "finished")
                return machine, now_s
            turns += 1
            if turns % 10 == 0:
                self.checkpoint()

    def end(self, meter: supervise.Meter, machine: Machine, now_s: float, why: str) -> None:
        if self.timer(now_s):  # it has cut the checkpoint short; the stop was decided before
            self.guarded_alive = True
            raise Refused(why)
        supervise.close_meter(meter, machine.instant(now_s), why)
        self.stop = why
        self.after(now_s)

    def dead(self, now_s: float, alive: bool = False) -> "Refused":
        self.guarded_alive = alive
        self.judge("dead-man", self.limit_s)
        return Refused("dead-man")

    def next_event(self, from_s: float, to_s: float) -> tuple[float, str] | None:
        """What comes before the next decision: something that ends the session comes last."""
        due = None
        while self.events and self.events[0][0] < to_s and due is None:
            due = self.events.pop(0)
        return due

    def happen(self, kind: str, machine: Machine) -> Machine:
        """What does not end the session."""
        if kind == "clock-stepped":
            jump_s = self.chance.choice([-1, 1]) * self.chance.uniform(1, 7200)
            return replace(machine, wall_skew_s=machine.wall_skew_s + jump_s)
        if kind == "ledger-edited":
            path = self.run / folder.LEDGER
            content = bytearray(path.read_bytes())
            position = self.chance.randrange(len(content))
            content[position] ^= self.chance.randrange(1, 256)
            path.write_bytes(content)
        if kind == "trainer-hung":
            self.hung = True
        return machine

    def train(self, from_s: float, to_s: float) -> None:
        """The trainer's line of this minute, if it is alive and past its set-up."""
        if self.hung or to_s < self.first_step_s:
            return
        rate = self.world.speed(to_s)
        self.step += 1
        self.tokens += round(rate * (to_s - max(from_s, self.first_step_s)))
        line = {"step": self.step, "attempt": 1, "loss": 3.0, "tokens": self.tokens,
                "clock": {"seconds": 0.1, "tokens_per_s": rate}}  # fmt: skip
        folder.append_line(self.run / folder.METRICS, line)
        self.rates.append((to_s, rate))

    def checkpoint(self) -> None:
        """The part of a checkpoint that is a witness of the ledger; the last two are kept."""
        place = self.run / folder.CHECKPOINTS
        path = place / f"step-{self.step:08d}"
        path.mkdir(parents=True, exist_ok=True)
        state = {"ledger_checksum": ledger.last_checksum(self.run)}
        folder.write_json(path / "state.json", state)
        for old in sorted(place.iterdir())[:-2]:
            shutil.rmtree(old)

    # ---- Was the rule there? By the books kept apart

    def note_turn(self, state: guard.GuardState, now_s: float) -> None:
        self.books.turns.append((now_s, self.books.upper_usd(now_s), self.tokens, state.running_s))

    def judge(self, rule: str, now_s: float) -> None:
        """Whether the projection or the ceiling rule held when the run was stopped."""
        upper_usd, usd = self.books.upper_usd(now_s), self.books.readings[-1][1]
        slack_usd = usd * 3 / HOUR + 1e-6  # restarts join by wall clocks that differ by a second
        if rule == "ceiling":
            seconds = 60 + TURN_S + 5 + 10 + 3 * 55  # stop, wait, be late, read a price; the timer
            at_risk_usd = guard.PRICE_RISE * usd * seconds / HOUR
            self.rule_held = upper_usd + at_risk_usd + slack_usd >= self.ceiling_usd
        if rule in ("dead-man", "nothing-left"):
            usd = self.world.price(now_s)
            self.books.readings.append((now_s, usd))
            # Between two of its own readings the timer cannot know either when a price rose.
            rises = sum(
                max(b - a, 0.0)
                for (_, a), (at_s, b) in pairwise(self.world.prices)
                if at_s <= now_s
            )
            at_risk_usd = (3 * 55 * usd + rises * (READ_EVERY_S + 70)) / HOUR
            upper_usd = self.books.upper_usd(now_s)
            self.rule_held = upper_usd + at_risk_usd + slack_usd >= self.ceiling_usd
        if rule == "alert-line":
            last = [turn for turn in self.books.turns if turn[0] >= now_s - guard.ALERT_FOR_S]
            self.rule_held = (
                now_s - self.started_s >= guard.ALERT_AFTER_S + guard.ALERT_FOR_S - 1
                and all(self.projection_usd(*turn) + slack_usd > self.alert_usd for turn in last)
            )

    def projection_usd(
        self, now_s: float, upper_usd: float, tokens: int, running_s: float
    ) -> float:
        rates = [rate for at_s, rate in self.rates if now_s - guard.RATE_WINDOW_S <= at_s <= now_s]
        remaining_s = max(self.config.tokens - tokens, 0) / median(rates) if rates else 0.0
        usd = next(usd for at_s, usd in reversed(self.books.readings) if at_s <= now_s)
        return upper_usd + remaining_s * usd / HOUR


class Refused(Exception):
    """The run ends here, and why."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def cut_tail(path: Path, lines: int) -> None:
    content = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(content[: max(len(content) - lines, 1)]))


def tear_tail(path: Path, chance: random.Random) -> None:
    """A last line half written."""
    content = path.read_bytes()
    path.write_bytes(content + b'{"entry": "charge", "time": "2026-'[: chance.randrange(1, 30)])


Next = tuple[Machine, float]


def restarted(history: History, meter: supervise.Meter, machine: Machine, now_s: float) -> Next:
    """A person stops the run and goes on later, on the same machine."""
    now_s += history.chance.uniform(1, supervise.STOPPING_S)
    supervise.close_meter(meter, machine.instant(now_s), "exit 130")
    return machine, now_s + history.chance.uniform(10, 1800)


def preempted(history: History, meter: supervise.Meter, machine: Machine, now_s: float) -> Next:
    """With 30 s of notice: the supervisor closes, the provider takes the machine."""
    history.say_price(now_s)
    supervise.close_meter(meter, machine.instant(now_s + 25), "exit 130")
    history.give_back(now_s + 30)
    again_s = now_s + history.chance.uniform(60, HOUR)
    history.books.closed.append((now_s + 30, again_s))
    machine = history.rent(again_s)
    return machine, again_s + history.chance.uniform(120, 600)


def preempted_at_once(
    history: History, meter: supervise.Meter, machine: Machine, now_s: float
) -> Next:
    """Without notice: nobody closes anything."""
    history.give_back(now_s + history.chance.uniform(0, 30))
    again_s = now_s + history.chance.uniform(60, HOUR)
    machine = history.rent(again_s)
    return machine, again_s + history.chance.uniform(120, 600)


def line_torn(history: History, meter: supervise.Meter, machine: Machine, now_s: float) -> Next:
    """The machine is taken while a line is being written."""
    tear_tail(history.run / folder.LEDGER, history.chance)
    return preempted_at_once(history, meter, machine, now_s)


def supervisor_killed(
    history: History, meter: supervise.Meter, machine: Machine, now_s: float
) -> Next:
    """The trainer goes with it; the machine is billed until somebody comes back, or nobody does."""
    away_s = history.chance.uniform(30, 2 * HOUR) if history.chance.random() < 0.8 else 99 * HOUR
    return machine, now_s + away_s


def lines_lost(history: History, meter: supervise.Meter, machine: Machine, now_s: float) -> Next:
    """Killed, and with it the ledger's last lines, or an older copy put back."""
    history.tail_cut = history.chance.randrange(1, 60)
    return supervisor_killed(history, meter, machine, now_s)


def host_killed(history: History, meter: supervise.Meter, machine: Machine, now_s: float) -> Next:
    """The host dies and is billed all the same; it boots again, or never does."""
    if history.chance.random() < 0.3:
        return machine, now_s + 99 * HOUR
    again_s = now_s + history.chance.uniform(60, 2 * HOUR)
    machine = history.boot(again_s, machine.started_s, machine.wall_skew_s)
    return machine, again_s + history.chance.uniform(30, 300)


def clock_set_back(
    history: History, meter: supervise.Meter, machine: Machine, now_s: float
) -> Next:
    """The same, and its clock is hours behind when it is back."""
    again_s = now_s + history.chance.uniform(60, HOUR)
    back_s = history.chance.uniform(2, 3 * HOUR)
    machine = history.boot(again_s, machine.started_s, machine.wall_skew_s - back_s)
    return machine, again_s + history.chance.uniform(30, 300)


OUTAGES: dict[str, Callable[[History, supervise.Meter, Machine, float], Next]] = {
    "restarted": restarted, "preempted": preempted, "preempted-at-once": preempted_at_once,
    "line-torn": line_torn, "supervisor-killed": supervisor_killed, "lines-lost": lines_lost,
    "host-killed": host_killed, "clock-set-back": clock_set_back,
}  # fmt: skip


def simulate(first: int, histories: int, seed: int, place: Path) -> dict[str, Any]:
    """Live through so many histories from number `first`; what came of them."""
    sys.stdin = None  # nobody is at a terminal
    supervise.CHARGE_EVERY_S, deadman.READ_EVERY_S = TURN_S, READ_EVERY_S
    stops: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    damage: Counter[str] = Counter()
    over, unfounded, closest, alive = [], [], 1.0, 0
    began_s = time.process_time()
    for number in range(first, first + histories):
        name = f"{seed}/{number}"
        history = History(name, place / f"run-{first}")
        history.live()
        bill_usd, ceiling_usd = history.world.bill_usd(), history.ceiling_usd
        stops[bool(history.damage)][str(history.stop)] += 1
        damage.update(history.damage)
        alive += history.guarded_alive
        closest = min(closest, 1 - bill_usd / ceiling_usd)
        if bill_usd > ceiling_usd:
            over.append({"history": name, "stop": history.stop, "damage": sorted(history.damage),
                         "bill_usd": bill_usd, "ceiling_usd": ceiling_usd})  # fmt: skip
        if not history.damage and history.stop != "finished" and not history.rule_held:
            unfounded.append({"history": name, "stop": history.stop})
        shutil.rmtree(history.run)
    return {
        "histories": histories,
        "above_the_ceiling": over,
        "stopped_without_a_rule": unfounded,
        "closest_to_the_ceiling": closest,
        "ended_by_the_timer_while_supervised": alive,
        "stops": stops,
        "damage": damage,
        "cpu_seconds": time.process_time() - began_s,
    }


def together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The results of several batches as one."""
    whole = dict(parts[0])
    for part in parts[1:]:
        for name, value in part.items():
            if name == "stops":
                whole[name] = {key: whole[name][key] + value[key] for key in value}
            elif name == "closest_to_the_ceiling":
                whole[name] = min(whole[name], value)
            else:
                whole[name] = whole[name] + value
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args()
    memory = Path("/dev/shm")  # an fsync costs nothing there
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place,
        ProcessPoolExecutor(chosen.workers) as pool,
    ):
        work = [
            pool.submit(
                simulate, first, min(BATCH, chosen.histories - first), chosen.seed, Path(place)
            )
            for first in range(0, chosen.histories, BATCH)
        ]
        for count, done in enumerate(as_completed(work), start=1):
            part = done.result()
            print(f"{count} of {len(work)}", part["above_the_ceiling"],
                  part["stopped_without_a_rule"], file=sys.stderr, flush=True)  # fmt: skip
    found = table({"seed": chosen.seed, **together([done.result() for done in work])})
    if chosen.out:
        folder.write_json(chosen.out, {**WORDS, **provenance(chosen.workers), **found})
    print(found)


WORDS = {
    "what": "Hostile histories of runs through the guard, its ledger files and its price reader, "
    "against a bill kept apart",
    "what_es": "Historias hostiles de ejecuciones a través del guardián, sus libros de gastos y su "
    "lector de precios, frente a una factura llevada aparte",
}


def table(found: dict[str, Any]) -> dict[str, Any]:
    """The result as the site prints it."""
    rows = []
    for damaged, stops in found["stops"].items():
        total = sum(stops.values())
        rows += [
            {"damaged": "yes" if damaged else "no", "danado": "sí" if damaged else "no",
             "stop": stop, "histories": count, "share": f"{100 * count / total:.2f}%"}
            for stop, count in stops.most_common()
        ]  # fmt: skip
    summary = {
        "histories": found["histories"],
        "above": len(found["above_the_ceiling"]),
        "unfounded": len(found["stopped_without_a_rule"]),
        "closest": f"{100 * found['closest_to_the_ceiling']:.2f}%",
        "alive": found["ended_by_the_timer_while_supervised"],
    }
    damage = dict(found["damage"].most_common())
    seconds = round(found["cpu_seconds"])
    return {**found, "cpu_seconds": seconds, "stops": rows, "damage": damage, "summary": [summary]}


if __name__ == "__main__":
    main()
