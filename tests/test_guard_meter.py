"""The meter between ledger, price and guard: each of its checks alone, in one process."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from x1 import config as configuration
from x1 import folder, guard, ledger, price, supervise
from x1.ledger import Instant, Price
from x1.text import UserError

BOOT = Instant(wall_ms=1_790_000_000_000, boot_ms=5_000, boot_id="first-boot")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder.claim(tmp_path / "run", config())
    return tmp_path / "run"


def config(*more: str) -> Any:
    return configuration.build("rehearsal", settings=("money.watts=1000.0", *more))


def after(seconds: float) -> Instant:
    milliseconds = round(1000 * seconds)
    return replace(BOOT, wall_ms=BOOT.wall_ms + milliseconds, boot_ms=BOOT.boot_ms + milliseconds)


def says(monkeypatch: pytest.MonkeyPatch, usd_per_hour: float | None) -> None:
    def read(reader: price.Reader, at: Instant) -> Price:
        if usd_per_hour is None:
            raise UserError("price.unreadable", where="here", fault="away")
        return Price(usd_per_hour, "here", "2026-11-01")

    monkeypatch.setattr(price.Reader, "read", read)


def turn(meter: supervise.Meter, seconds: float) -> guard.Decision:
    """A decision so many seconds after the start, the trainer being well."""
    progress = supervise.Progress.at_end_of(meter.run, seconds)
    return supervise.turn(meter, progress, after(seconds), seconds)[1]


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        (0.0, "price"),
        (-1.0, "negative"),
        (float("nan"), "not-a-number"),
        (float("inf"), "not-a-number"),
    ],
)
def test_a_source_that_says_nonsense_stops_the_run_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, said: float, rule: str
) -> None:
    meter = supervise.open_meter(run, config(), BOOT)
    says(monkeypatch, said)
    assert turn(meter, 890).action == "go"
    assert turn(meter, 900) == guard.Decision("stop", rule)
    book = ledger.read_ledger(run)  # and nothing of it is in the ledger
    assert (book.price.usd_per_hour, book.closed) == (0.2, False)


@pytest.mark.parametrize("said", [0.0, -1.0, float("nan"), None])
def test_nothing_opens_without_a_price(
    run: Path, monkeypatch: pytest.MonkeyPatch, said: float | None
) -> None:
    says(monkeypatch, said)
    with pytest.raises(UserError):
        supervise.open_meter(run, config(), BOOT)
    assert not (run / folder.LEDGER).exists()


def test_at_the_ceiling_an_old_price_is_read_again(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes after a reading, the doubt about the price alone would be the ceiling."""
    meter = supervise.open_meter(run, config("money.ceiling_usd=0.11"), BOOT)
    reads = []
    monkeypatch.setattr(
        price.Reader, "read",
        lambda reader, at: reads.append(at.boot_ms) or Price(0.2, "here", "2026-11-01"),
    )  # fmt: skip
    assert turn(meter, 600).action == "go"
    assert reads == [after(600).boot_ms]
    says(monkeypatch, 0.6)  # and now it has trebled: a dime for these 600 s
    assert turn(meter, 1200) == guard.Decision("stop", "ceiling")
    assert float(ledger.read_ledger(run).spent_usd) == pytest.approx(0.2 / 6 + 0.6 / 6)


def test_a_restart_reads_the_price_and_charges_the_rise(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, 1.0)
    meter = supervise.open_meter(run, config(), BOOT)
    turn(meter, 600)
    says(monkeypatch, 3.0)
    again = supervise.open_meter(run, config(), after(1200))
    assert float(again.ledger.spent_usd) == pytest.approx(1.0)  # 20 minutes at three dollars
    assert again.usd_per_hour == 3.0


def test_lines_cut_off_are_missed_by_a_checkpoint(run: Path) -> None:
    meter = supervise.open_meter(run, config(), BOOT)
    turn(meter, 10)
    state = run / folder.CHECKPOINTS / "step-00000040" / "state.json"
    state.parent.mkdir(parents=True)
    folder.write_json(state, {"ledger_checksum": ledger.last_checksum(run)})
    turn(meter, 20)
    path = run / folder.LEDGER
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # newer than the checkpoint: charged as a gap
    supervise.open_meter(run, config(), after(30))
    path.write_bytes(b"".join(lines[:-2]))
    with pytest.raises(UserError) as caught:
        supervise.open_meter(run, config(), after(30))
    assert caught.value.key == "ledger.cut"
    assert path.read_bytes() == b"".join(lines[:-2])
    state.write_text("{")  # a damaged checkpoint is no witness
    supervise.open_meter(run, config(), after(30))


def test_a_line_by_another_hand_stops_the_run(run: Path) -> None:
    meter = supervise.open_meter(run, config(), BOOT)
    with (run / folder.LEDGER).open("ab") as file:
        file.write(b"\n")
    assert turn(meter, 10) == guard.Decision("stop", "damaged-ledger")


def test_every_line_is_on_the_disk_before_anything_goes_on(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = supervise.open_meter(run, config(), BOOT)
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (fsync(descriptor), synced.append(os.fstat(descriptor).st_size)),
    )
    supervise.charge(meter, after(10))
    assert synced == [meter.ledger.size_bytes]


def test_the_most_is_reserved_before_anything_starts(run: Path) -> None:
    amounts = {"alert_line_usd": 1.2, "reserve_usd": 2.0}
    folder.write_json(run / folder.PLAN, {"format": "x1-plan-1", "money": amounts})
    assert supervise.open_meter(run, config(), BOOT).ledger.reserved_usd == 2.0
    hours_2 = supervise.open_meter(run, config(), after(7200)).ledger
    assert hours_2.reserved_usd == pytest.approx(2.0 - 0.4)
    beyond = supervise.open_meter(run, config(), after(12 * 3600)).ledger  # past the reserve
    assert beyond.reserved_usd == pytest.approx(50.0 - 2.4)


def test_a_question_nobody_answers_is_not_attended(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 0

    foreground = [os.getpgrp()]
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(os, "tcgetpgrp", lambda descriptor: foreground[0])
    meter = supervise.open_meter(run, config(), BOOT)
    assert supervise.is_attended(meter, 100.0)
    meter.asked_since_s = 100.0
    assert supervise.is_attended(meter, 999.9)
    assert not supervise.is_attended(meter, 1000.0)
    meter.answered = True
    assert supervise.is_attended(meter, 5000.0)
    foreground[0] += 1  # in the background nobody can answer
    assert not supervise.is_attended(meter, 5000.0)
