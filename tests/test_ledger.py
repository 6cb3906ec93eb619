import json
import os
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from x1 import ledger
from x1.folder import LEDGER
from x1.ledger import Instant, Ledger, Price
from x1.text import UserError

A100 = Price(1.10, "a provider's page", "2026-11-01")
DEARER = Price(3.30, "a provider's page", "2026-11-02")
BOOT = Instant(wall_ms=1_790_000_000_123, boot_ms=5_000, boot_id="first-boot")

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def later(at: Instant, milliseconds: int) -> Instant:
    return replace(at, wall_ms=at.wall_ms + milliseconds, boot_ms=at.boot_ms + milliseconds)


def opened(run: Path, price: Price = A100) -> Ledger:
    (run / LEDGER).unlink(missing_ok=True)
    return ledger.start(run, BOOT, price, ceiling_usd=50.0, lab_budget_usd=35.0)


def example(run: Path) -> Ledger:
    """One line of each kind but repair."""
    book = opened(run)
    book = ledger.reserve(run, book, later(BOOT, 1), 20.0)
    book = ledger.charge(run, book, later(BOOT, 10_001))
    book = ledger.set_price(run, book, later(BOOT, 15_000), DEARER)
    book = ledger.close(run, book, later(BOOT, 20_000), "exit 0")
    return ledger.resume(run, later(BOOT, 90_000))


def fault(run: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        ledger.read_ledger(run)
    return caught.value


def test_first_line_says_plan_limits_and_price(tmp_path: Path) -> None:
    ledger.start(tmp_path, BOOT, A100, 50.0, 35.0, plan_sha256="ab" * 32, alert_line_usd=31.68)
    first = json.loads((tmp_path / LEDGER).read_text().splitlines()[0])
    assert first["entry"] == "open"
    assert first["time"] == "2026-09-21T14:13:20.123+00:00"
    assert (first["plan_sha256"], first["ceiling_usd"]) == ("ab" * 32, 50.0)
    assert (first["lab_budget_usd"], first["alert_line_usd"]) == (35.0, 31.68)
    assert (first["price_usd_per_hour"], first["source"]) == (1.10, "a provider's page")
    assert first["date"] == "2026-11-01"
    assert ledger.read_ledger(tmp_path).alert_line_usd == 31.68


def test_an_hour_costs_its_price_to_the_nano_dollar(tmp_path: Path) -> None:
    book = opened(tmp_path)
    for second in range(10, 3601, 10):
        book = ledger.charge(tmp_path, book, later(BOOT, 1000 * second))
    # Each of the 360 charges may be rounded up by less than a billionth.
    assert Decimal("1.10") <= book.spent_usd < Decimal("1.10") + 360 * ledger.NANO_USD


@quick
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["charge", "price", "close", "resume"]),
            st.integers(0, 10**10),
            st.floats(1e-4, 1e4),
        ),
        max_size=20,
    )
)
def test_reading_gives_back_what_was_written(
    tmp_path: Path, steps: list[tuple[str, int, float]]
) -> None:
    book, at, exact, unread_ms = opened(tmp_path), BOOT, Decimal(0), 0
    for kind, milliseconds, usd_per_hour in steps:
        at = later(at, milliseconds)
        if kind != "resume" or not book.closed:
            exact += Decimal(book.price.usd_per_hour) * milliseconds / 3_600_000
            unread_ms += milliseconds
        if kind == "charge":
            book = ledger.charge(tmp_path, book, at)
        elif kind == "price":
            rise = max(Decimal(usd_per_hour) - Decimal(book.price.usd_per_hour), Decimal(0))
            exact, unread_ms = exact + rise * unread_ms / 3_600_000, 0
            book = ledger.set_price(tmp_path, book, at, Price(usd_per_hour, "typed", "2026-11-03"))
        elif kind == "close":
            book = ledger.close(tmp_path, book, at, "exit 0")
        else:
            book = ledger.resume(tmp_path, at)
        assert ledger.read_ledger(tmp_path) == book
    assert book.at == at
    below = book.spent_usd - exact
    assert -Decimal("1e-9") < below < ledger.NANO_USD * 4 * len(steps) + Decimal("1e-9")
    amounts = [Decimal(entry.get("usd", 0)) for entry in ledger.read_entries(tmp_path)]
    assert sum(amounts) == book.spent_usd


@quick
@given(data=st.data())
def test_any_changed_byte_is_found_or_is_a_torn_tail(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / LEDGER).unlink(missing_ok=True)
    book = example(tmp_path)
    content = bytearray((tmp_path / LEDGER).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / LEDGER).write_bytes(content)
    try:
        read = ledger.read_ledger(tmp_path)
    except UserError as error:
        assert error.key == "ledger.damaged"
        line = book_line(bytes(content), position)
        assert error.values["line"] in (line, line - 1)  # a changed newline joins two lines
    else:
        # Only the last newline can go unreported as damage, and then the line is left out.
        assert position == len(content) - 1
        assert read.torn_bytes > 0 and read.size_bytes < book.size_bytes


def book_line(content: bytes, position: int) -> int:
    return content[: position + 1].count(b"\n", 0, position) + 1


@pytest.mark.parametrize(
    "hurt", ["deleted", "unreserved", "swapped", "doubled", "edited", "foreign"]
)
def test_lines_moved_about_are_damage(tmp_path: Path, hurt: str) -> None:
    example(tmp_path)
    lines = (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)
    if hurt == "deleted":
        del lines[3]
    elif hurt == "unreserved":
        del lines[2]  # a line that no sum counts
    elif hurt == "swapped":
        lines[3], lines[4] = lines[4], lines[3]
    elif hurt == "doubled":
        lines.insert(4, lines[3])
    elif hurt == "edited":
        lines[3] = lines[3].replace(b'"seconds": 10.0', b'"seconds": 11.0')
    else:
        lines[3] = b'{"entry": "charge"}\n'
    (tmp_path / LEDGER).write_bytes(b"".join(lines))
    expected = {"unreserved": 3, "doubled": 5}.get(hurt, 4)
    assert (fault(tmp_path).key, fault(tmp_path).values["line"]) == ("ledger.damaged", expected)


@pytest.mark.parametrize("field", ["usd", "cumulative_usd", "price_usd_per_hour", "seconds"])
def test_a_sealed_lie_is_recomputed(tmp_path: Path, field: str) -> None:
    """Who seals a wrong amount anew passes the checksum and not the arithmetic."""
    book = opened(tmp_path)
    charged = ledger.charge(tmp_path, book, later(BOOT, 3_600_000))
    first, last = (tmp_path / LEDGER).read_bytes().splitlines()
    entry = json.loads(last)
    del entry["checksum"]
    entry[field] = "0.5" if field.endswith("usd") else 0.5
    forged = ledger._seal(book.checksum, json.dumps(entry).encode())
    (tmp_path / LEDGER).write_bytes(first + b"\n" + forged + b"\n")
    assert charged.spent_usd == Decimal("1.1")
    assert fault(tmp_path).values["line"] == 2


def test_lines_cut_off_the_end_are_seen_only_from_outside(tmp_path: Path) -> None:
    """What the chain cannot see, and what a checksum kept elsewhere does."""
    book = example(tmp_path)
    lines = (tmp_path / LEDGER).read_bytes().splitlines(keepends=True)
    assert book.checksum in ledger.checksums(tmp_path)
    (tmp_path / LEDGER).write_bytes(b"".join(lines[:-1]))
    assert ledger.read_ledger(tmp_path).spent_usd <= book.spent_usd
    assert book.checksum not in ledger.checksums(tmp_path)


@quick
@given(kept=st.integers(0, 10_000))
def test_a_torn_tail_costs_no_money(tmp_path: Path, kept: int) -> None:
    """Cut anywhere, then restarted: the seconds of the lost line are in the gap."""
    book = opened(tmp_path)
    for second in (10, 20, 30):
        book = ledger.charge(tmp_path, book, later(BOOT, 1000 * second))
    content = (tmp_path / LEDGER).read_bytes()
    first = content.index(b"\n") + 1
    (tmp_path / LEDGER).write_bytes(content[: first + kept % (len(content) - first)])
    torn = ledger.read_ledger(tmp_path).torn_bytes
    resumed = ledger.resume(tmp_path, later(BOOT, 40_000))
    kinds = [entry["entry"] for entry in ledger.read_entries(tmp_path)]
    assert ("repair" in kinds) == (torn > 0)
    assert kinds[-1] == "gap"
    exact = Decimal("1.10") * 40 / 3600
    assert exact <= resumed.spent_usd < exact + 5 * ledger.NANO_USD
    assert ledger.read_ledger(tmp_path) == resumed


def test_a_repair_is_noted(tmp_path: Path) -> None:
    example(tmp_path)
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'{"entry": "char')
    ledger.resume(tmp_path, later(BOOT, 100_000))
    repair = ledger.read_entries(tmp_path)[-2]
    assert (repair["entry"], repair["dropped_bytes"]) == ("repair", 15)


def test_a_first_line_torn_by_a_kill_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_bytes(b'{"entry": "open", "ti')
    assert not ledger.exists(tmp_path)
    assert fault(tmp_path).key == "ledger.empty"
    ledger.start(tmp_path, BOOT, A100, 50.0, 35.0)
    assert ledger.read_ledger(tmp_path).spent_usd == 0


def test_missing_ledger_is_a_sentence(tmp_path: Path) -> None:
    assert fault(tmp_path).key == "ledger.missing"


def test_a_ledger_is_never_opened_twice(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(FileExistsError):
        ledger.start(tmp_path, BOOT, A100, 50.0, 35.0)


@pytest.mark.parametrize(
    ("wall_ms", "boot_ms", "boot_id", "expected_ms"),
    [
        (60_000, 65_000, "first-boot", 60_000),
        (-9_999_999, 65_000, "first-boot", 60_000),  # same boot: wall time has no say
        (9_999_999, 65_000, "first-boot", 60_000),
        (60_000, 1_000, "second-boot", 60_000),  # another boot: only wall time joins
        (-900, 1_000, "second-boot", 0),  # within a second: two clocks' disagreement
        (-4_000, 1_000, "second-boot", 4_000),  # backward, unbounded: the larger
        (-4_000, 7_000, "second-boot", 7_000),
        (60_000, 4_000, "first-boot", 60_000),  # a boot clock that ran back is not believed
    ],
)
def test_gap(wall_ms: int, boot_ms: int, boot_id: str, expected_ms: int) -> None:
    after = Instant(BOOT.wall_ms + wall_ms, boot_ms, boot_id)
    assert ledger.gap_ms(BOOT, after) == expected_ms


@pytest.mark.parametrize(
    ("start_ms", "boot_id", "seconds"),
    [
        (None, "first-boot", 0.0),  # one's own
        (0, "first-boot", 70.0),  # rented and never given back
        (80_000, "first-boot", 70.0),  # its container was started again
        (50_000, "second-boot", 40.0),  # another machine: its set-up
    ],
)
def test_after_close_only_a_rented_machine_still_up_costs(
    tmp_path: Path, start_ms: int | None, boot_id: str, seconds: float
) -> None:
    book = ledger.close(tmp_path, opened(tmp_path), later(BOOT, 20_000), "exit 0")
    assert book.closed
    start = None if start_ms is None else replace(later(BOOT, start_ms), boot_id=boot_id)
    resumed = ledger.resume(tmp_path, replace(later(BOOT, 90_000), boot_id=boot_id), start)
    assert ledger.read_entries(tmp_path)[-1]["seconds"] == seconds
    assert not resumed.closed


def test_a_rise_is_charged_since_the_last_reading(tmp_path: Path) -> None:
    """Nobody knows when it rose; a fall counts from when it was read."""
    book = ledger.charge(tmp_path, opened(tmp_path), later(BOOT, 1_800_000))
    book = ledger.set_price(tmp_path, book, later(BOOT, 3_600_000), A100)
    assert book.spent_usd == Decimal("1.1")
    book = ledger.charge(tmp_path, book, later(BOOT, 5_400_000))
    book = ledger.set_price(tmp_path, book, later(BOOT, 7_200_000), DEARER)
    assert book.spent_usd == Decimal("4.4")  # the first hour was read at both its ends
    book = ledger.set_price(tmp_path, book, later(BOOT, 10_800_000), A100)
    assert book.spent_usd == Decimal("7.7")
    assert ledger.read_ledger(tmp_path) == book


def test_dollars_spent_elsewhere_are_carried_in(tmp_path: Path) -> None:
    book = ledger.carry(tmp_path, opened(tmp_path), BOOT, Decimal("7.25"), "runs/ladder")
    assert (book.spent_usd, ledger.left_usd(book)) == (Decimal("7.25"), 42.75)
    assert ledger.read_ledger(tmp_path) == book
    with pytest.raises(ValueError):
        ledger.carry(tmp_path, book, BOOT, Decimal("-1"), "a refund")


def test_the_last_checksum_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    assert ledger.last_checksum(tmp_path) is None
    book = example(tmp_path)
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'{"entry": "char')
    assert ledger.last_checksum(tmp_path) == book.checksum


def test_no_more_is_reserved_than_is_left(tmp_path: Path) -> None:
    book = ledger.charge(tmp_path, opened(tmp_path), later(BOOT, 36_000_000))
    at = book.at
    with pytest.raises(UserError) as caught:
        ledger.reserve(tmp_path, book, at, 39.01)
    assert caught.value.key == "ledger.reserve"
    assert "$39.00" in str(caught.value)
    book = ledger.reserve(tmp_path, ledger.read_ledger(tmp_path), at, 39.0)
    assert book.reserved_usd == 39.0


@pytest.mark.parametrize("price", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_prices_are_not_written(tmp_path: Path, price: float) -> None:
    book = opened(tmp_path)
    before = (tmp_path / LEDGER).read_bytes()
    with pytest.raises(ValueError):
        ledger._append(tmp_path, book, BOOT, "price", price_usd_per_hour=price, source="", date="")
    assert (tmp_path / LEDGER).read_bytes() == before


def test_a_file_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    book = opened(tmp_path)
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(UserError) as caught:
        ledger.charge(tmp_path, book, later(BOOT, 10_000))
    assert caught.value.key == "ledger.changed"
    (tmp_path / LEDGER).unlink()
    with pytest.raises(UserError) as caught:
        ledger.charge(tmp_path, book, later(BOOT, 10_000))
    assert caught.value.key == "ledger.missing"


def test_a_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = opened(tmp_path)
    before = (tmp_path / LEDGER).read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:40]))
    with pytest.raises(OSError):
        ledger.charge(tmp_path, book, later(BOOT, 10_000))
    monkeypatch.undo()
    assert (tmp_path / LEDGER).read_bytes() == before
    assert ledger.charge(tmp_path, book, later(BOOT, 10_000)).spent_usd > 0


@pytest.mark.parametrize(
    ("step_ms", "again_ms", "gap_s"),
    [
        (0, 110_000, 100.0),
        (60_000, 110_000, 100.0),  # it was put ahead, and is right again
        (60_000, 170_000, 160.0),  # it was put right, or is still ahead: nobody knows
        (-60_000, 110_000, 160.0),
        (-60_000, 50_000, 100.0),
    ],
)
def test_a_step_of_the_wall_clock_within_a_boot_counts_as_the_longer_gap(
    tmp_path: Path, step_ms: int, again_ms: int, gap_s: float
) -> None:
    """The last line is 10 s after the first, its wall clock stepped; then another boot."""
    book = opened(tmp_path)
    stepped = later(BOOT, 10_000)
    ledger.charge(tmp_path, book, replace(stepped, wall_ms=stepped.wall_ms + step_ms))
    ledger.resume(tmp_path, Instant(BOOT.wall_ms + again_ms, 5_000, "second-boot"))
    assert ledger.read_entries(tmp_path)[-1]["seconds"] == gap_s
