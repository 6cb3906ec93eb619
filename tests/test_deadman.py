"""The timer outside a rented machine and the keeper beside a supervisor, as real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from x1 import clock, deadman, folder, guard, ledger, supervise
from x1 import config as configuration
from x1.deadman import Limit
from x1.keeper import kept, start_ticks
from x1.ledger import Instant
from x1.text import UserError

NOW = Instant(wall_ms=1_790_000_000_000, boot_ms=3_600_000_000, boot_id="the-machine")


def config(*more: str) -> Any:
    chosen = ("money.hardware='a100-80gb'", "money.price_usd_per_hour=2.0",
              "money.price_date='2026-11-01'", "money.ceiling_usd=10.0", *more)  # fmt: skip
    return configuration.build("x1-50m", settings=chosen)


def make_run(path: Path, *more: str) -> Path:
    folder.claim(path, config(*more))
    return path


def book(run: Path, ceiling_usd: float = 10.0) -> ledger.Ledger:
    price = ledger.Price(2.0, "typed", "2026-11-01")
    return ledger.start(run, NOW, price, ceiling_usd, ceiling_usd)


def until(true: Any, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return value


# ---- The limit


def test_a_limit_counts_and_keeps_what_ending_costs() -> None:
    limit = deadman.advance(Limit(10.0, 2.0), 3600.0)
    assert limit == Limit(8.0, 2.0, 3600.0)
    assert deadman.advance(limit, 0.0, 2.0) == Limit(8.0 - 2.0 * 2.0, 2.0)  # may have trebled
    assert deadman.advance(Limit(10.0, 2.0, 60.0), 60.0, 6.0).left_usd == pytest.approx(
        10 - 60 * 2.0 / 3600 - 120 * 4.0 / 3600  # the 60 s before were counted at $2
    )
    assert deadman.advance(Limit(10.0, 2.0), 60.0, float("nan")).usd_per_hour == 2.0
    keeps_usd = 3 * deadman.END_S * 2.0 / 3600
    assert not deadman.has_passed(Limit(keeps_usd + 1e-9, 2.0))
    assert deadman.has_passed(Limit(keeps_usd, 2.0))


# A price holds for longer than half of the time between two readings, and at most trebles.
steps = st.lists(
    st.tuples(st.floats(451, 900), st.floats(1 / 3, 3), st.booleans()), min_size=1, max_size=40
)


@given(steps)
@settings(max_examples=200, deadline=None)
def test_a_limit_never_counts_less_than_was_owed(history: list[tuple[float, float, bool]]) -> None:
    limit, owed_usd = Limit(1000.0, 2.0), 0.0
    for seconds, factor, readable in history:
        usd_per_hour = factor * limit.usd_per_hour
        owed_usd += usd_per_hour * seconds / 3600
        limit = deadman.advance(limit, seconds, usd_per_hour if readable else None)
        unseen_usd = guard.at_risk_usd(limit.usd_per_hour, 0.0, limit.unread_s)
        assert 1000.0 - limit.left_usd + unseen_usd >= owed_usd - 1e-6


# ---- May it start?


def refusal(run: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        deadman.require(run, config(), book(run), NOW, False)
    return caught.value.key


def test_nothing_armed_needs_somebody_who_watches(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert refusal(run) == "deadman.none"
    opened = ledger.read_ledger(run)
    sentence = deadman.require(run, config(), opened, NOW, True)
    assert "you will watch" in sentence


def state_of(run: Path, **changes: Any) -> None:
    state = deadman.write_state(run, config(), Limit(10.0, 2.0), NOW, "armed", 1)
    folder.write_json(run / deadman.STATE, {**state, "boot_id": "the-office", **changes})


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, True),
        ({"boot_id": "the-machine"}, False),  # it would die with the machine
        ({"status": "disarmed"}, False),
        ({"status": "passed"}, False),
        ({"until": "2026-09-21T14:13:19+00:00"}, False),  # a second ago
    ],
)
def test_a_timer_counts_if_it_runs_elsewhere(
    tmp_path: Path, changes: dict[str, Any], accepted: bool
) -> None:
    run = make_run(tmp_path / "run")
    state_of(run, **changes)
    if accepted:
        assert "a timer on" in deadman.require(run, config(), book(run), NOW, False)
    else:
        assert refusal(run) == "deadman.none"


def test_a_providers_limit_must_be_paid_for(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(clock, "process_start_ms", lambda pid: NOW.boot_ms - 3_600_000)
    run = make_run(tmp_path / "run")
    opened = book(run)  # $10 at $2/h are 5 h, and the machine has been up for one
    fits = config("money.max_lifetime_hours=6.0")
    assert "6 h" in deadman.require(run, fits, opened, NOW, False)
    with pytest.raises(UserError) as caught:
        deadman.require(run, config("money.max_lifetime_hours=6.1"), opened, NOW, True)
    assert (caught.value.key, caught.value.values["most"]) == ("deadman.too_late", "6.00")


def test_a_rented_run_is_refused_before_a_trainer_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "money.ceiling_usd=1e6")
    with pytest.raises(UserError) as caught:
        supervise.supervise(run, [sys.executable, "-c", f"open({str(run / 'started')!r}, 'w')"])
    assert caught.value.key == "deadman.none"
    assert ledger.read_ledger(run).closed
    # And with somebody watching it starts, the sentence first.
    capture = run / "out"
    assert (
        supervise.supervise(run, [sys.executable, "-c", f"open({str(capture)!r}, 'w')"], True) == 0
    )
    assert capture.exists()


def test_set_up_is_charged_from_the_machines_first_process(
    tmp_path: Path, monkeypatch: Any
) -> None:
    at = supervise.instant()
    monkeypatch.setattr(clock, "process_start_ms", lambda pid: at.boot_ms - 1_800_000)
    run = make_run(tmp_path / "run")
    meter = supervise.open_meter(run, config(), at)
    assert float(meter.ledger.spent_usd) == pytest.approx(1.0, abs=1e-6)  # half an hour at $2


# ---- What was spent before


def test_the_ladders_dollars_are_in_the_account_once(tmp_path: Path) -> None:
    """Counted, they are carried in and the plan's line holds; uncounted, the line is the run's."""
    run, ladder = make_run(tmp_path / "run"), make_run(tmp_path / "ladder")
    at = supervise.instant()
    ladder_book = ledger.charge(ladder, book(ladder), replace(NOW, boot_ms=NOW.boot_ms + 3_600_000))
    lines = [{"item": "ladder", "usd": {"value": 2.5, "low": 2.0, "high": 4.0}}]
    amounts = {"alert_line_usd": 9.0, "reserve_usd": 9.5}
    folder.write_json(run / folder.PLAN, {"format": "x1-plan-1", "money": amounts, "lines": lines})
    apart = config()
    assert supervise.planned_amounts(run, apart) == {"alert_line_usd": 6.0, "reserve_usd": 5.5}
    counted = config(f"money.counted=['{ladder}']")
    assert supervise.planned_amounts(run, counted) == amounts
    meter = supervise.open_meter(run, counted, at)
    assert meter.ledger.spent_usd >= ladder_book.spent_usd > 0
    assert meter.ledger.alert_line_usd == 9.0
    assert [e["source"] for e in ledger.read_entries(run) if e["entry"] == "carry"] == [str(ladder)]


def test_an_account_that_cannot_be_read_starts_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError) as caught:
        supervise.open_meter(run, config("money.counted=['/no/such/run']"), supervise.instant())
    assert caught.value.key == "ledger.missing"
    assert not (run / folder.LEDGER).exists()


# ---- The timer as a process


FAST = """
import sys
from pathlib import Path
from x1 import deadman
deadman.POLL_S, deadman.READ_EVERY_S, deadman.END_S = 0.05, 0.2, 0.1
deadman.timer(Path(sys.argv[1]))
"""


def test_the_timer_runs_the_command_until_it_succeeds(tmp_path: Path) -> None:
    """The price trebles after it was armed, and its first try to end the machine fails."""
    offers = tmp_path / "prices.toml"

    def say(usd: float) -> None:
        offers.write_text(
            'format = "x1-prices-1"\n[[offer]]\nhardware = "a100-80gb"\n'
            f"usd_per_hour = {usd}\ndate = 2026-11-01\n"
        )

    done, tries = tmp_path / "ended", tmp_path / "tries"
    script = tmp_path / "stop.sh"
    script.write_text(f"echo x >> {tries}\n[ $(wc -l < {tries}) -ge 2 ] && touch {done}\n")
    run = make_run(
        tmp_path / "run", f"money.price_source='file:{offers}'",
        f"money.stop_command='sh {script}'",
    )  # fmt: skip
    say(3600.0)
    limit = Limit(6.0, 3600.0)  # a dollar a second: 6 s, or a little over 2 at three dollars
    deadman.write_state(run, folder.open_run(run), limit, clock.instant(), "armed", 1)
    say(10_800.0)
    subprocess.run([sys.executable, "-c", FAST, str(run)], timeout=60, check=True)
    assert done.exists() and len(tries.read_text().split()) == 2
    state = deadman.read_state(run)
    assert state and state["status"] == "passed"
    assert folder.events(run, "stop")[-1]["rule"] == "deadman"


def test_arm_and_disarm(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "money.stop_command='true'")
    assert deadman.main(["arm", str(run)]) == 0
    state = deadman.read_state(run)
    assert state and deadman.is_running(state) and state["left_usd"] == 10.0
    assert deadman.main(["arm", str(run)]) == 2  # never extended
    assert deadman.main(["disarm", str(run)]) == 0
    until(lambda: not deadman.is_running(state))
    after = deadman.read_state(run)
    assert after and after["status"] == "disarmed" and after["left_usd"] <= 10.0
    # For the next machine it goes on from what was left.
    folder.write_json(run / deadman.STATE, {**after, "left_usd": 4.0})
    assert deadman.left_usd(run, folder.open_run(run), deadman.read_state(run) or {}, NOW) == 4.0


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ((), "deadman.no_command"),
        (("money.stop_command='true'", "money.ceiling_usd=0.01"), "deadman.nothing_left"),
        (("money.stop_command='true'", "money.hardware='own-cpu'"), "deadman.own"),
    ],
)
def test_what_cannot_be_armed(tmp_path: Path, more: tuple[str, ...], key: str) -> None:
    run = make_run(tmp_path / "run", *more)
    with pytest.raises(UserError) as caught:
        deadman.arm(run, folder.open_run(run), clock.instant())
    assert caught.value.key == key
    assert not (run / deadman.STATE).exists()


# ---- The keeper as a process


SUPERVISOR = """
import subprocess, sys, time
from pathlib import Path
from x1.keeper import kept
run, trainer = Path(sys.argv[1]), sys.argv[2]
with kept(run, float(sys.argv[3]), float(sys.argv[4])) as keeper:
    child = subprocess.Popen([sys.executable, "-c", trainer, str(run)], start_new_session=True)
    keeper.guard(child.pid)
    keeper.hear()
    (run / "pid").write_text(str(child.pid))
    child.wait()
"""
DEAF = """
import signal, sys, time
from pathlib import Path
def note(number, frame):
    (Path(sys.argv[1]) / "asked").touch()
signal.signal(signal.SIGTERM, note)
(Path(sys.argv[1]) / "ready").touch()
for _ in range(6000):
    time.sleep(0.01)
"""


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Any]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(saving_s: float, silent_s: float) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-c",
            SUPERVISOR,
            str(tmp_path),
            DEAF,
            str(saving_s),
            str(silent_s),
        ]
        started.append(subprocess.Popen(command))
        until(lambda: (tmp_path / "ready").exists() and (tmp_path / "pid").exists())
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_trainer_without_supervisor_is_asked_and_then_killed(
    tmp_path: Path, supervisor: Any, end: signal.Signals
) -> None:
    process = supervisor(1.0, 1.0 if end == signal.SIGSTOP else 60.0)
    pid = int((tmp_path / "pid").read_text())
    started = start_ticks(pid)
    process.send_signal(end)
    until(lambda: (tmp_path / "asked").exists())
    until(lambda: start_ticks(pid) != started)
    events = until(lambda: (tmp_path / "events.jsonl").exists() and folder.events(tmp_path, "stop"))
    assert events[-1]["rule"] == "deadman"


def test_a_keeper_goes_with_a_trainer_that_ends(tmp_path: Path) -> None:
    with kept(tmp_path, 1.0) as keeper:
        keeper.guard(os.getpid())
        pid = keeper.process.pid
        assert start_ticks(pid) > 0
    assert start_ticks(pid) == 0
    assert json.dumps(folder.events(tmp_path)) == "[]"


def test_a_keeper_that_was_killed_does_not_hurt(tmp_path: Path) -> None:
    with kept(tmp_path, 1.0) as keeper:
        keeper.process.kill()
        keeper.process.wait()
        keeper.hear()
        keeper.guard(os.getpid())
