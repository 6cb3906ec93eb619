"""Real processes and real signals, around a trainer that only pretends."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from x1 import config as configuration
from x1 import folder, ledger, money, price, supervise
from x1.config import RunConfig
from x1.ledger import Instant
from x1.text import UserError

TRAINER = '''
"""Writes metrics as a trainer does; how it ends is said on its command line."""
import fcntl, json, os, signal, sys, time
from pathlib import Path

run, behaviour = Path(sys.argv[1]), sys.argv[2]
signals = run / "signals"
stopping = False

def line(step):
    record = {"step": step, "attempt": 1, "loss": 1.0, "tokens": 4096 * (step + 1),
              "clock": {"seconds": 0.02, "tokens_per_s": 204800.0}}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\\n")

def on_signal(number, frame):
    global stopping
    stopping = True
    with signals.open("a") as file:
        file.write(signal.Signals(number).name + "\\n")

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, on_signal)
lock = (run / ".train.lock").open("a+")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
(run / "trainer.pid").write_text(str(os.getpid()))
step = 0
while step < 2000:
    if behaviour.startswith("exit") and step == 5:
        sys.exit(int(behaviour[4:]))
    if behaviour == "killed" and step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour != "hang" or step < 5:
        line(step)
        step += 1
    if stopping and behaviour not in ("hang", "stubborn"):
        for _ in range(1000 if behaviour == "slow" else 0):
            if not (run / "saved").exists():
                time.sleep(0.01)
        (run / "checkpoint").write_text(str(step))
        sys.exit(130)
    time.sleep(0.02)
'''
# Every constant in a test's proportions; the behaviour itself is the real one.
SUPERVISOR = """
import signal
import sys
from pathlib import Path
from x1 import guard, price, supervise
from x1.text import UserError, set_language
set_language("en")
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
supervise.TICK_S, supervise.CHARGE_EVERY_S, supervise.STOPPING_S = 0.02, 0.1, 0.8
supervise.LATE_S, supervise.HUNG_S, price.TIMEOUT_S = 1.0, 1.5, 0.1
run = Path(sys.argv[1])
try:
    command = [sys.executable, str(run / "trainer.py"), str(run), sys.argv[2]]
    sys.exit(supervise.supervise(run, command))
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def make_run(path: Path, *settings: str) -> Path:
    folder.claim(path, configuration.build("rehearsal", settings=settings))
    (path / "trainer.py").write_text(TRAINER)
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a supervisor in a session of its own, as a terminal does; kills what a test leaves."""
    started: list[subprocess.Popen[str]] = []

    def begin(run: Path, behaviour: str = "train") -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, str(run), behaviour],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()  # not read to its end: an orphan may still hold it


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def trained(run: Path, steps: int = 5) -> bool:
    return len(folder.read_lines(run / folder.METRICS)) >= steps


def charged(run: Path) -> bool:
    return ledger.exists(run) and any(e["entry"] == "charge" for e in ledger.read_entries(run)[3:])


def trainer_pid(run: Path) -> int:
    return int((run / "trainer.pid").read_text())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ended(process: subprocess.Popen[str], seconds: float = 60.0) -> tuple[int, str]:
    _, words = process.communicate(timeout=seconds)
    return process.returncode, words


def signals_received(run: Path) -> list[str]:
    path = run / "signals"
    return path.read_text().split() if path.exists() else []


def entries(run: Path, kind: str) -> list[dict[str, Any]]:
    return [entry for entry in ledger.read_entries(run) if entry["entry"] == kind]


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_trainers_exit_code_comes_back(run: Path, start: Any, code: int) -> None:
    returned, words = ended(start(run, f"exit{code}"))
    assert returned == code
    assert "Cost of this run so far" in words and "65 W assumed" in words
    assert entries(run, "close")[-1]["reason"] == f"exit {code}"


def test_every_second_is_charged_once(run: Path, start: Any) -> None:
    began = time.monotonic()
    process = start(run)
    until(lambda: charged(run))
    process.send_signal(signal.SIGINT)
    ended(process)
    wall_s = time.monotonic() - began
    lines = ledger.read_entries(run)
    assert [line["entry"] for line in lines[:3]] == ["open", "charge", "reserve"]
    seconds = [line["seconds"] for line in lines if "seconds" in line]
    clock_s = (lines[-1]["boot_ms"] - lines[0]["boot_ms"]) / 1000
    assert sum(seconds) == pytest.approx(clock_s, abs=1e-6)
    assert 0.1 < sum(seconds) < wall_s
    book = ledger.read_ledger(run)
    exact_usd = sum(seconds) / 3600 * 0.065 * 0.20
    assert exact_usd <= float(book.spent_usd) < exact_usd + 1e-9 * len(seconds)
    assert book.closed


def read(config: RunConfig) -> ledger.Price:
    return price.Reader(config).read(supervise.instant())


def test_own_machine_price_is_named_as_assumed_or_stated(tmp_path: Path) -> None:
    assumed = read(configuration.build("rehearsal"))
    expected = money.electricity_usd(1.0, money.OWN_CPU_WATTS, 0.20)
    assert assumed.usd_per_hour == pytest.approx(expected, rel=1e-9)
    assert "65 W assumed, not measured" in assumed.source
    stated = read(configuration.build("rehearsal", settings=("money.watts=100",)))
    assert (stated.usd_per_hour, "100 W stated" in stated.source) == (0.02, True)


def test_rented_price_has_source_and_date() -> None:
    typed = ("money.price_usd_per_hour=1.1", "money.price_date='2026-11-01'")
    found = read(configuration.build("x1-50m", settings=typed))
    assert (found.usd_per_hour, found.source, found.date) == (1.1, "typed", "2026-11-01")


def test_one_ctrl_c_is_one_sigterm(run: Path, start: Any) -> None:
    process = start(run)
    until(lambda: trained(run))
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    code, words = ended(process)
    assert code == 130
    assert signals_received(run) == ["SIGTERM"]
    assert (run / "checkpoint").exists()
    assert words.count("asked to write a checkpoint") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_ways_to_end_a_terminal(run: Path, start: Any, number: signal.Signals) -> None:
    process = start(run)
    until(lambda: trained(run))
    process.send_signal(number)
    assert ended(process)[0] == 130
    assert signals_received(run) == ["SIGTERM"]


def test_second_ctrl_c_waits_third_kills(run: Path, start: Any) -> None:
    process = start(run, "stubborn")
    until(lambda: trained(run))
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    code, words = ended(process)
    assert code == 130
    assert signals_received(run) == ["SIGTERM"]
    order = [words.index(part) for part in ("Stopping:", "Waiting for", "is killed;")]
    assert order == sorted(order)
    assert "goes on from the last one with: x1 train --out" in words


def test_ctrl_z_is_refused(run: Path, start: Any) -> None:
    process = start(run)
    until(lambda: trained(run))
    process.send_signal(signal.SIGTSTP)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    code, words = ended(process)
    assert code == 130
    assert "cannot be suspended" in words


def test_a_killed_trainer_is_a_sentence_with_the_way_on(run: Path, start: Any) -> None:
    code, words = ended(start(run, "killed"))
    assert code == 128 + signal.SIGKILL
    assert "killed by SIGKILL" in words
    assert f"x1 train --out {run}" in words
    assert "Traceback" not in words


def test_a_second_supervisor_is_told_who_holds_the_run(run: Path, start: Any) -> None:
    first = start(run)
    until(lambda: trained(run))
    before = (run / folder.LEDGER).read_bytes()[:200]
    code, words = ended(start(run))
    assert code == 2
    assert f"pid {first.pid}" in words
    first.send_signal(signal.SIGTERM)
    assert ended(first)[0] == 130
    assert (run / folder.LEDGER).read_bytes()[:200] == before


def test_the_ceiling_ends_a_run_with_a_checkpoint(tmp_path: Path, start: Any) -> None:
    # $0.65 an hour: 3 x 2 s to stop in cost $0.00108, so 6 s are left to start and train in.
    run = make_run(tmp_path / "run", "money.watts=3250", "money.ceiling_usd=0.0022")
    code, words = ended(start(run))
    assert code == supervise.GUARDED
    assert signals_received(run) == ["SIGTERM"]
    assert (run / "checkpoint").exists()
    (stop,) = folder.events(run, "stop")
    assert (stop["reason"], stop["rule"]) == ("guard", "ceiling")
    assert "reaches the ceiling" in words
    assert entries(run, "close")[-1]["reason"] == "ceiling"
    assert 0 < ledger.read_ledger(run).spent_usd < ledger.read_ledger(run).ceiling_usd
    # And nothing is started again on what is left.
    (run / "trainer.pid").unlink()
    code, words = ended(start(run))
    assert code == supervise.GUARDED
    assert "Training was not started" in words
    assert not (run / "trainer.pid").exists()


def test_a_trainer_deaf_to_sigterm_is_killed_below_the_ceiling(tmp_path: Path, start: Any) -> None:
    run = make_run(tmp_path / "run", "money.watts=3250", "money.ceiling_usd=0.0022")
    process = start(run, "stubborn")
    pid = until(lambda: (run / "trainer.pid").exists() and trainer_pid(run))
    code, words = ended(process)
    assert code == supervise.GUARDED
    assert "did not end within 0.8 s" in words
    assert not alive(pid)
    assert ledger.read_ledger(run).spent_usd < 0.0022


def test_a_hung_trainer_is_stopped(run: Path, start: Any) -> None:
    code, words = ended(start(run, "hang"))
    assert code == supervise.GUARDED
    assert folder.events(run, "stop")[0]["rule"] == "hung-trainer"
    assert signals_received(run) == ["SIGTERM"]
    assert "no sign of life" in words


def test_a_killed_supervisor_takes_its_trainer_along(run: Path, start: Any) -> None:
    process = start(run)
    until(lambda: charged(run) and trained(run))
    pid = trainer_pid(run)
    process.kill()
    until(lambda: not alive(pid), seconds=3)
    assert (run / "checkpoint").exists()
    before = ledger.read_ledger(run)
    assert not before.closed

    with (run / folder.LEDGER).open("ab") as file:
        file.write(b'{"entry": "charge", "ti')  # what a kill in mid-write leaves
    time.sleep(0.5)
    assert ended(start(run, "exit0"))[0] == 0
    repair, gap = entries(run, "repair"), entries(run, "gap")
    assert len(repair) == len(gap) == 1
    assert gap[0]["seconds"] == (gap[0]["boot_ms"] - before.at.boot_ms) / 1000 >= 0.5
    seconds = sum(line.get("seconds", 0) for line in ledger.read_entries(run))
    lines = ledger.read_entries(run)
    assert seconds == pytest.approx((lines[-1]["boot_ms"] - lines[0]["boot_ms"]) / 1000, abs=1e-6)


def test_a_trainer_still_saving_is_waited_for(run: Path, start: Any) -> None:
    process = start(run, "slow")
    until(lambda: trained(run))
    pid = trainer_pid(run)
    process.kill()
    second = start(run, "exit0")
    assert second.stderr is not None
    assert "still saving" in second.stderr.readline()
    assert alive(pid)
    (run / "saved").touch()
    assert ended(second)[0] == 0
    assert not alive(pid)


def test_an_orphan_that_never_ends_is_named(run: Path, start: Any) -> None:
    process = start(run, "stubborn")
    until(lambda: trained(run))
    pid = trainer_pid(run)
    process.kill()
    try:
        code, words = ended(start(run, "exit0"))
        assert code == 2
        assert "in use by another process" in words
        assert entries(run, "close")[-1]["reason"] == "refused"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_nothing_starts_on_a_tampered_ledger(run: Path, start: Any) -> None:
    assert ended(start(run, "exit0"))[0] == 0
    path = run / folder.LEDGER
    hurt = path.read_bytes().replace(b'"usd": "0.0000', b'"usd": "0.0001', 1)
    path.write_bytes(hurt)
    (run / "trainer.pid").unlink()
    code, words = ended(start(run, "exit0"))
    assert code == 2
    assert "damaged at line 2" in words
    assert path.read_bytes() == hurt
    assert not (run / "trainer.pid").exists()


def test_nothing_starts_when_the_ledger_has_vanished(run: Path, start: Any) -> None:
    assert ended(start(run, "exit0"))[0] == 0
    (run / folder.LEDGER).unlink()
    code, words = ended(start(run, "exit0"))
    assert code == 2
    assert "is missing" in words
    assert not (run / folder.LEDGER).exists()


def test_a_ledger_touched_while_running_stops_the_run(run: Path, start: Any) -> None:
    process = start(run)
    until(lambda: charged(run))
    with (run / folder.LEDGER).open("ab") as file:
        file.write(b"\n")
    code, words = ended(process)
    assert code == supervise.GUARDED
    assert folder.events(run, "stop")[0]["rule"] == "damaged-ledger"
    assert (run / "checkpoint").exists()
    assert "could not be written" in words


def test_another_plan_is_refused(run: Path, start: Any) -> None:
    assert ended(start(run, "exit0"))[0] == 0
    amounts = {"alert_line_usd": 1.0, "reserve_usd": 2.0}
    folder.write_json(run / folder.PLAN, {"format": "x1-plan-1", "money": amounts})
    code, words = ended(start(run, "exit0"))
    assert code == 2
    assert "is not the plan" in words


def test_the_plan_is_in_the_first_line(run: Path, start: Any) -> None:
    amounts = {"alert_line_usd": 1.0, "reserve_usd": 2.0}
    folder.write_json(run / folder.PLAN, {"format": "x1-plan-1", "money": amounts})
    assert ended(start(run, "exit0"))[0] == 0
    book = ledger.read_ledger(run)
    assert book.plan_sha256 == supervise.plan.plan_digest(run)
    assert (book.alert_line_usd, book.reserved_usd) == (1.0, 2.0)


def test_a_command_that_does_not_exist_leaves_a_closed_ledger(run: Path) -> None:
    with pytest.raises(FileNotFoundError):
        supervise.supervise(run, ["/no/such/trainer"])
    assert ledger.read_ledger(run).closed


def test_a_rented_machine_without_a_price_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "money.hardware='h200-sxm'")
    with pytest.raises(UserError):
        supervise.supervise(run, ["/no/such/trainer"])
    assert not (run / folder.LEDGER).exists()


# ---- The parts that need no process


def a_meter(run: Path) -> supervise.Meter:
    return supervise.open_meter(run, folder.open_run(run), supervise.instant())


def turn(meter: supervise.Meter, at: Instant) -> Any:
    now_s = time.monotonic()
    return supervise.turn(meter, supervise.Progress.at_end_of(meter.run, now_s), at, now_s)


def after(at: Instant, seconds: float) -> Instant:
    milliseconds = round(1000 * seconds)
    return replace(at, wall_ms=at.wall_ms + milliseconds, boot_ms=at.boot_ms + milliseconds)


def test_the_price_is_read_again_every_15_minutes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = a_meter(run)
    began = meter.ledger.at
    dearer = ledger.Price(2.0, "a page", "")
    monkeypatch.setattr(price.Reader, "read", lambda reader, at: dearer)
    supervise.charge(meter, after(began, 899))
    assert meter.ledger.price.usd_per_hour == 0.013
    supervise.charge(meter, after(began, 900))
    assert meter.ledger.price.usd_per_hour == 2.0
    # It may have risen right after the last reading, and is charged as if it had.
    assert float(meter.ledger.spent_usd) == pytest.approx(2.0 / 4, rel=1e-6)


def test_a_price_nobody_can_read_stops_the_run_within_the_hour(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(reader: Any, at: Any) -> Any:
        raise UserError("supervise.no_price", hardware="?")

    meter = a_meter(run)
    began = meter.ledger.at
    monkeypatch.setattr(price.Reader, "read", unreadable)
    decisions = {}
    for minute in range(0, 66, 5):
        at = after(began, 60 * minute)
        _, decisions[minute] = turn(meter, at)
    assert {decisions[minute].action for minute in range(0, 61, 5)} == {"go"}
    assert decisions[65].rule == "unread-price"


def test_a_price_that_can_be_read_never_grows_old(run: Path) -> None:
    meter = a_meter(run)
    began = meter.ledger.at
    for minute in range(0, 181, 5):
        at = after(began, 60 * minute)
        assert turn(meter, at)[1].action == "go"


def test_a_same_size_edit_is_found_within_15_minutes(run: Path) -> None:
    meter = a_meter(run)
    began = meter.ledger.at
    path = run / folder.LEDGER
    path.write_bytes(path.read_bytes().replace(b"50.0", b"99.0", 1))
    supervise.charge(meter, after(began, 10))
    assert not meter.damaged
    supervise.charge(meter, after(began, 900))
    assert meter.damaged


def test_progress_reads_whole_lines_only(run: Path) -> None:
    path = run / folder.METRICS
    clock = {"seconds": 2.0, "tokens_per_s": 100.0}
    old = {"step": 6, "loss": 1.0, "tokens": 700, "clock": {"seconds": 1.0, "tokens_per_s": 9.0}}
    folder.append_line(path, old)
    progress = supervise.Progress.at_end_of(run, time.monotonic())
    assert (progress.tokens, progress.tokens_per_s) == (700, None)
    assert progress.limit_s == supervise.SET_UP_LIMIT_S
    lines = [{"step": s, "loss": 1.0, "tokens": 100 * s, "clock": clock} for s in (4, 5)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    path.write_bytes(path.read_bytes() + text[:-20].encode())
    progress.read(progress.seen_s + 1)
    assert (progress.step, progress.tokens, progress.tokens_per_s) == (4, 400, 100.0)
    path.write_bytes(path.read_bytes() + text[-20:].encode() + b"not json\n")
    progress.read(progress.seen_s + 1)
    assert (progress.step, progress.tokens) == (5, 500)
    assert progress.limit_s == supervise.HUNG_S


def test_slow_steps_are_given_twenty_of_themselves(run: Path) -> None:
    progress = supervise.Progress.at_end_of(run, time.monotonic())
    clock = {"seconds": 60.0, "tokens_per_s": 100.0}
    line = {"step": 0, "loss": 1.0, "tokens": 1, "clock": clock}
    folder.append_line(run / folder.METRICS, line)
    progress.read(progress.seen_s + 1)
    assert progress.limit_s == 20 * 60.0


def test_the_rate_is_that_of_the_last_half_hour(run: Path) -> None:
    progress = supervise.Progress.at_end_of(run, time.monotonic())
    began = progress.seen_s
    for minute in range(61):
        rate = 1000.0 if minute < 40 else 10.0
        clock = {"seconds": 1.0, "tokens_per_s": rate}
        line = {"step": minute, "loss": 1.0, "tokens": minute, "clock": clock}
        folder.append_line(run / folder.METRICS, line)
        progress.read(began + 60 * minute)
    assert progress.tokens_per_s == 10.0


def test_the_alert_line_counts_only_an_unbroken_crossing(run: Path) -> None:
    amounts = {"alert_line_usd": 1e-6, "reserve_usd": 2.0}
    folder.write_json(run / folder.PLAN, {"format": "x1-plan-1", "money": amounts})
    meter = a_meter(run)
    progress = supervise.Progress.at_end_of(run, time.monotonic())
    moment = progress.started_s

    def over_s(seconds: float, rate: float) -> float:
        nonlocal moment
        moment += seconds
        progress.rates.clear()
        progress.rates.append((moment, rate, 0.1))
        return supervise.observe(meter, progress, meter.ledger.at, moment).over_alert_s

    assert over_s(0, 1.0) == 0
    assert over_s(590, 1.0) == 0  # no projection is believed in the first 10 minutes
    assert over_s(10, 1.0) == 0
    assert over_s(600, 1.0) == 600
    assert over_s(60, 1e12) == 0
    assert over_s(60, 1.0) == 0
    assert over_s(30, 1.0) == 30
