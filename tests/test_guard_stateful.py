"""The meter and its guard through anything: a machine that hypothesis tries to trick.

What is owed is added up here, apart from the code that is tested.
"""

import shutil
import tempfile
from decimal import Decimal
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from x1 import config as configuration
from x1 import folder, guard, ledger, supervise
from x1.ledger import Instant, Price
from x1.text import UserError

WALL_MS = 1_790_000_000_000
CEILING_USD = 20.0
MOST_USD = 30.0  # the dearest hour


class Metered(RuleBasedStateMachine):
    """Time passes, prices move, processes and machines come and go; the guard is asked often."""

    @initialize(usd=st.floats(0.5, 4.0))
    def begin(self, usd: float) -> None:
        self.run = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        own = ("money.hardware='own-cpu'", f"money.ceiling_usd={CEILING_USD}")
        self.config = configuration.build("rehearsal", settings=own)
        self.now_ms, self.boot_at_ms, self.boots, self.skew_ms = 0, -60_000, 1, 0
        self.usd, self.readable, self.moved = usd, True, False
        self.owed_usd = Decimal(0)
        self.unread: list[tuple[int, float]] = []
        self.stopped: str | None = None
        self.meter: supervise.Meter | None = None
        self.closed = False
        self.open()

    # ---- The world

    def at(self) -> Instant:
        wall_ms = WALL_MS + self.now_ms + self.skew_ms
        return Instant(wall_ms, self.now_ms - self.boot_at_ms, f"boot-{self.boots}")

    def read(self, at: Instant) -> Price:
        """What stands in for a price source: what is owed is settled at every reading."""
        if not self.readable:
            raise UserError("price.unreadable", where="here", fault="away")
        self.unread.clear()
        self.moved = False
        return Price(self.usd, "here", "2026-11-01")

    def passes(self, seconds: float) -> None:
        milliseconds = round(1000 * seconds)
        self.now_ms += milliseconds
        if self.closed:
            return  # nothing runs on one's own machine: nobody owes for it
        self.owed_usd += Decimal(self.usd) * milliseconds / 3_600_000
        self.unread.append((milliseconds, self.usd))

    def open(self) -> None:
        supervise.price.Reader.read = (  # type: ignore[method-assign]
            lambda reader, at: self.read(at)
        )
        try:
            self.meter = supervise.open_meter(self.run, self.config, self.at())
        except UserError as fault:
            assert not self.readable and fault.key == "price.unreadable"
            self.meter = None
            return
        self.closed = False
        self.progress = supervise.Progress.at_end_of(self.run, self.now_ms / 1000)

    def ask(self) -> None:
        assert self.meter is not None
        self.progress.seen_s = self.now_ms / 1000  # the trainer is alive and well
        state, decision = supervise.turn(self.meter, self.progress, self.at(), self.now_ms / 1000)
        risk_usd = state.price_usd_per_hour * 3 * state.stopping_s / 3600
        if decision.action == "go":
            assert state.spent_usd + risk_usd < CEILING_USD
            assert state.price_age_s <= 3600
        else:
            assert decision.rule in ("ceiling", "unread-price"), decision
            if decision.rule == "ceiling":  # never from an old price that can be read again
                assert not self.readable or state.spent_usd + risk_usd >= CEILING_USD
            self.stopped = decision.rule

    # ---- What may happen

    @precondition(lambda self: self.meter and not self.stopped)
    @rule(turns=st.integers(1, 40), late_s=st.floats(0, 5))
    def trains(self, turns: int, late_s: float) -> None:
        for _ in range(turns):
            self.passes(10 + late_s)
            self.ask()
            if self.stopped:
                return

    @precondition(lambda self: self.meter and not self.stopped)
    @rule(factor=st.floats(0.4, 3.0))
    def price_moves(self, factor: float) -> None:
        """Between two readings it moves once: right after the first of them, at worst."""
        if not (self.unread or self.moved):
            self.usd, self.moved = min(self.usd * factor, MOST_USD), True

    @rule()
    def source_fails_or_recovers(self) -> None:
        self.readable = not self.readable

    @precondition(lambda self: self.meter and not self.stopped)
    @rule(seconds=st.floats(-9000, 9000))
    def wall_clock_jumps(self, seconds: float) -> None:
        """While it is being watched: a step that no line has seen cannot be told from time."""
        self.skew_ms += round(1000 * seconds)
        self.ask()

    @rule(seconds=st.floats(1, 4000), torn=st.integers(0, 40))
    def supervisor_is_killed(self, seconds: float, torn: int) -> None:
        """Within one boot, so that what the clocks say is the truth."""
        if self.meter:
            with (self.run / folder.LEDGER).open("ab") as file:
                file.write(b'{"entry": "charge", "time": "2026-11-01T0'[:torn])
        self.meter = None
        self.passes(seconds)
        self.open()
        self.stopped = None

    @precondition(lambda self: self.meter)
    @rule(seconds=st.floats(1, 4000))
    def machine_reboots(self, seconds: float) -> None:
        self.meter = None
        self.passes(seconds)
        self.boots += 1
        self.boot_at_ms = self.now_ms - 1000
        self.open()
        self.stopped = None

    @precondition(lambda self: self.meter)
    @rule(seconds=st.floats(1, 10_000))
    def is_closed_and_opened_again(self, seconds: float) -> None:
        assert self.meter is not None
        supervise.close_meter(self.meter, self.at(), "exit 130")
        self.closed = True
        self.passes(seconds)
        self.open()
        self.stopped = None

    # ---- What must hold

    @precondition(lambda self: self.meter)
    @invariant()
    def the_file_is_what_is_in_memory(self) -> None:
        assert self.meter is not None and not self.meter.damaged
        assert ledger.read_ledger(self.run) == self.meter.ledger

    @precondition(lambda self: self.meter)
    @invariant()
    def never_less_is_counted_than_is_owed(self) -> None:
        assert self.meter is not None
        book = self.meter.ledger
        charged_to = book.at.boot_ms + self.boot_at_ms
        later_usd = Decimal(self.usd) * (self.now_ms - charged_to) / 3_600_000
        unseen_usd = Decimal(2 * book.price.usd_per_hour) * book.unread_ms / 3_600_000
        assert book.spent_usd + later_usd + unseen_usd >= self.owed_usd - Decimal("1e-6")

    def teardown(self) -> None:
        supervise.price.Reader.read = READ  # type: ignore[method-assign]
        if hasattr(self, "run"):
            shutil.rmtree(self.run)


READ = supervise.price.Reader.read
TestMetered = Metered.TestCase
TestMetered.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
assert guard.PRICE_RISE == 3
