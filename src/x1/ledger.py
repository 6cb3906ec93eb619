"""Money spent by a run: `ledger.jsonl`, append-only, on the disk before anything goes on.

Every line ends in a SHA-256 over the line before's and its own bytes, so an edited, swapped,
inserted or deleted line is found and named. Reading trusts nothing: every amount is computed
again from seconds and price. What is summed is `Decimal`, rounded up to a billionth of a dollar
per charge, and written as a string: sums are exact and never below the truth.

    open     the plan's digest, the limits and the first price; always the first line
    carry    dollars that were spent under the same ceiling before this run: a ladder, a first try
    price    a reading of the price; a dearer one is charged for every second since the last reading
    reserve  the most that may be spent from here on, set aside before anything starts
    seal     the SHA-256 of prediction.json, written before the run it predicts; once
    charge   seconds under the supervisor's eyes, their price, dollars, and the sum so far
    gap      the same for seconds nobody watched: from the last line to a restart
    repair   bytes of a torn last line, dropped by the next writer (its seconds are in the gap)
    close    the meter stops

What a chain alone cannot see: whole lines cut off its end (a shorter ledger is a valid one), and
a forger who seals every line anew, for there is no secret in it. Who must know keeps the checksum
of a moment elsewhere, as a checkpoint does (`last_checksum`), and later asks whether `checksums`
still has it.

Nothing here reads a clock: whoever writes says when it is (`Instant`). One writer at a time; the
caller holds the run's lock. A `Ledger` is a value; each write returns the next one.
"""

import hashlib
import json
import math
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any

from x1 import money
from x1.folder import LEDGER, sync
from x1.text import UserError

FORMAT = "x1-ledger-1"
NANO_USD = Decimal("1e-9")
BACKWARD_STEP_MS = 1000  # a wall clock set back by more than this is not believed
GENESIS = "0" * 64  # what the first line is chained to
SEAL = b', "checksum": "'


@dataclass(frozen=True)
class Instant:
    """One moment on two clocks. `boot_ms` never steps, and compares only under one `boot_id`."""

    wall_ms: int
    boot_ms: int
    boot_id: str


@dataclass(frozen=True)
class Price:
    """Dollars per hour of the whole machine, who says so, and of which day (ISO date)."""

    usd_per_hour: float
    source: str
    date: str


@dataclass(frozen=True)
class Ledger:
    """A ledger as its lines add up. `torn_bytes` of an unfinished last line are not counted."""

    at: Instant
    price: Price
    plan_sha256: str | None
    prediction_sha256: str | None
    ceiling_usd: float
    lab_budget_usd: float
    alert_line_usd: float | None
    reserved_usd: float
    spent_usd: Decimal
    closed: bool
    unread_ms: int  # charged since the price was last read
    ahead_ms: int  # how far steps of the wall clock in this boot may have put it ahead
    checksum: str
    size_bytes: int
    torn_bytes: int = 0


def cost_usd(price: Price, milliseconds: int) -> Decimal:
    """What `milliseconds` at a price cost, rounded up to a billionth of a dollar."""
    usd = money.rental_usd(milliseconds / 3_600_000, price.usd_per_hour)
    return Decimal(repr(usd)).quantize(NANO_USD, ROUND_CEILING)


def gap_ms(before: Instant, after: Instant) -> int:
    """Milliseconds between a line and a restart, never too few as far as the clocks can tell.

    Within one boot the clock that never steps says it. Across boots only wall time joins them;
    if that went backwards by more than a second, the truth cannot be bounded, and the larger of
    the step and the time this machine has been up is taken.
    """
    if before.boot_id == after.boot_id and after.boot_ms >= before.boot_ms:
        return after.boot_ms - before.boot_ms
    wall_ms = after.wall_ms - before.wall_ms
    if wall_ms >= -BACKWARD_STEP_MS:
        return max(wall_ms, 0)
    return max(-wall_ms, after.boot_ms)


def unwatched_ms(ledger: Ledger, at: Instant) -> int:
    """Milliseconds from the last line to a restart. If the wall clock was stepped while this boot
    wrote, either side of the step may be the right one, and the longer time counts.
    """
    return gap_ms(replace(ledger.at, wall_ms=ledger.at.wall_ms - ledger.ahead_ms), at)


def start(
    run: Path,
    at: Instant,
    price: Price,
    ceiling_usd: float,
    lab_budget_usd: float,
    plan_sha256: str | None = None,
    alert_line_usd: float | None = None,
) -> Ledger:
    """Open the ledger of a run that has none. Raises FileExistsError if it has one."""
    path = run / LEDGER
    if path.exists() and b"\n" not in path.read_bytes():
        path.unlink()  # killed while writing its first line: nothing had been charged yet
    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o644))
    sync(run)
    return _append(run, None, at, "open", format=FORMAT, plan_sha256=plan_sha256,
                   ceiling_usd=ceiling_usd, lab_budget_usd=lab_budget_usd,
                   alert_line_usd=alert_line_usd, **_price_fields(price))  # fmt: skip


def resume(run: Path, at: Instant, machine_start: Instant | None = None) -> Ledger:
    """Take up an existing ledger: repair a torn last line, charge the time nobody watched.

    After `close` the meter of one's own machine stood still. A rented one is billed from
    `machine_start`: if it is the one that was there at the last line, it was never given back, and
    all of the time since is charged; if not, at least its own time so far. Raises UserError on any
    damage.
    """
    ledger = read_ledger(run)
    if ledger.torn_bytes:
        os.truncate(run / LEDGER, ledger.size_bytes)
        ledger = _append(run, replace(ledger, torn_bytes=0), ledger.at, "repair",
                         dropped_bytes=ledger.torn_bytes)  # fmt: skip
    elapsed_ms = gap_ms(machine_start, at) if machine_start else 0
    if not ledger.closed or (machine_start and ledger.at.boot_id == at.boot_id):
        elapsed_ms = max(elapsed_ms, unwatched_ms(ledger, at))
    if ledger.at.boot_id == at.boot_id:  # one clock for both: no more than has passed on it
        elapsed_ms = min(elapsed_ms, gap_ms(ledger.at, at))
    return _append(run, ledger, at, "gap", **_charge_fields(ledger, elapsed_ms))


def charge(run: Path, ledger: Ledger, at: Instant) -> Ledger:
    """Charge the time since the last line, at the price in force. Same boot as that line."""
    return _append(run, ledger, at, "charge", **_charge_fields(ledger, gap_ms(ledger.at, at)))


def set_price(run: Path, ledger: Ledger, at: Instant, price: Price) -> Ledger:
    """Charge up to now at the old price; from here on the one just read holds.

    Nobody knows when between two readings a price rose, so the difference is charged for all of
    the seconds since the last one.
    """
    charged = charge(run, ledger, at)
    rise_usd = _rise_usd(charged, price)
    return _append(run, charged, at, "price", **_price_fields(price), usd=f"{rise_usd:f}",
                   cumulative_usd=f"{charged.spent_usd + rise_usd:f}")  # fmt: skip


def carry(run: Path, ledger: Ledger, at: Instant, usd: Decimal, source: str) -> Ledger:
    """Enter dollars spent elsewhere under the same ceiling, and where."""
    return _append(run, ledger, at, "carry", usd=f"{usd:f}", source=source,
                   cumulative_usd=f"{ledger.spent_usd + usd:f}")  # fmt: skip


def reserve(run: Path, ledger: Ledger, at: Instant, usd: float) -> Ledger:
    """Set aside the most that may be spent from here on. Raises UserError above the ceiling."""
    charged = charge(run, ledger, at)
    left = left_usd(charged)
    if usd > left:
        raise UserError("ledger.reserve", usd=money.usd(usd), left=money.usd(left))
    return _append(run, charged, at, "reserve", usd=usd)


def seal_prediction(run: Path, ledger: Ledger, at: Instant, sha256: str) -> Ledger:
    """Enter the checksum of the run's sealed prediction. Raises ValueError after another one."""
    return _append(run, charge(run, ledger, at), at, "seal", prediction_sha256=sha256)


def left_usd(ledger: Ledger) -> float:
    """Dollars below the ceiling; 0 when there are none."""
    return max(float(Decimal(repr(ledger.ceiling_usd)) - ledger.spent_usd), 0.0)


def close(run: Path, ledger: Ledger, at: Instant, reason: str) -> Ledger:
    """Charge up to now and stop the meter."""
    charged = charge(run, ledger, at)
    return _append(run, charged, at, "close", reason=reason)


def read_ledger(run: Path) -> Ledger:
    """The ledger, every checksum checked and every sum computed again; writes nothing.

    A last line without its newline is what a kill leaves behind: it is left out and counted in
    `torn_bytes`. Raises UserError naming the first damaged line, or a ledger that is missing.
    """
    return _read(run)[0]


def read_entries(run: Path) -> list[dict[str, Any]]:
    """The ledger's lines as objects, in order, checked as `read_ledger` does."""
    return _read(run)[1]


def checksums(run: Path) -> set[str]:
    """Every line's checksum. One kept elsewhere and absent here: lines were cut off or forged."""
    return {entry["checksum"] for entry in read_entries(run)}


def last_checksum(run: Path) -> str | None:
    """The checksum of the last whole line, on the disk when this returns; None without a ledger.

    For whoever keeps it as a witness: nothing is checked, and the ledger may be growing.
    """
    path = run / LEDGER
    if not exists(run):
        return None
    sync(path)
    last = path.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2]
    return last.rpartition(SEAL)[2].removesuffix(b'"}').decode("ascii", "replace")


def exists(run: Path) -> bool:
    """Whether the run has a ledger with at least its first line whole."""
    path = run / LEDGER
    return path.is_file() and b"\n" in path.read_bytes()


def _read(run: Path) -> tuple[Ledger, list[dict[str, Any]]]:
    path = run / LEDGER
    try:
        *lines, torn = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise UserError("ledger.missing", path=path) from None
    ledger: Ledger | None = None
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = _unseal(ledger, line)
            ledger = _add(ledger, entry, len(line))
        except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
            raise UserError("ledger.damaged", path=path, line=number) from None
        entries.append(entry)
    if ledger is None:
        raise UserError("ledger.empty", path=path)
    return replace(ledger, torn_bytes=len(torn)), entries


def _append(run: Path, ledger: Ledger | None, at: Instant, entry: str, **fields: Any) -> Ledger:
    """Write one line, on the disk when this returns.

    Raises UserError if the file is no longer as this writer left it, OSError (disk full) with the
    file as it was.
    """
    when = datetime.fromtimestamp(at.wall_ms / 1000, UTC).isoformat(timespec="milliseconds")
    record = {"entry": entry, "time": when, "boot_ms": at.boot_ms, "boot_id": at.boot_id}
    body = json.dumps(record | fields, allow_nan=False).encode()
    line = _seal(ledger.checksum if ledger else GENESIS, body)
    grown = _add(ledger, _unseal(ledger, line), len(line))
    size = ledger.size_bytes if ledger else 0
    descriptor = _open_unchanged(run / LEDGER, size)
    try:
        written = os.write(descriptor, line + b"\n")
        if written != len(line) + 1:
            raise OSError(f"{LEDGER}: {written} of {len(line) + 1} bytes written")
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, size)
        raise
    finally:
        os.close(descriptor)
    return grown


def _open_unchanged(path: Path, size: int) -> int:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    except FileNotFoundError:
        raise UserError("ledger.missing", path=path) from None
    if os.fstat(descriptor).st_size != size:
        os.close(descriptor)
        raise UserError("ledger.changed", path=path)
    return descriptor


def _seal(previous: str, body: bytes) -> bytes:
    """A JSON object's bytes with the chained checksum as its last field."""
    digest = hashlib.sha256(previous.encode() + body).hexdigest()
    return body[:-1] + SEAL + digest.encode() + b'"}'


def _unseal(ledger: Ledger | None, line: bytes) -> dict[str, Any]:
    """The object on a line that follows `ledger`. Raises ValueError if its checksum says no."""
    body, _, _ = line.rpartition(SEAL)
    if line != _seal(ledger.checksum if ledger else GENESIS, body + b"}"):
        raise ValueError("checksum")
    entry = json.loads(line)
    if not isinstance(entry, dict):
        raise ValueError("not an object")
    return entry


def _add(ledger: Ledger | None, entry: dict[str, Any], length: int) -> Ledger:
    """The ledger with one more line of `length` bytes. Raises ValueError, KeyError, TypeError or
    ArithmeticError if the entry cannot follow."""
    if (entry["entry"] == "open") != (ledger is None):
        raise ValueError("entry")
    wall_ms = round(1000 * datetime.fromisoformat(entry["time"]).timestamp())
    at = Instant(wall_ms, int(entry["boot_ms"]), str(entry["boot_id"]))
    if ledger is None:
        if entry["format"] != FORMAT:
            raise ValueError("format")
        ledger = Ledger(
            at=at,
            price=_price_of(entry),
            plan_sha256=entry["plan_sha256"],
            prediction_sha256=None,
            ceiling_usd=_positive(entry["ceiling_usd"]),
            lab_budget_usd=_positive(entry["lab_budget_usd"]),
            alert_line_usd=entry["alert_line_usd"] and _positive(entry["alert_line_usd"]),
            reserved_usd=0.0,
            spent_usd=Decimal(0),
            closed=False,
            unread_ms=0,
            ahead_ms=0,
            checksum=GENESIS,
            size_bytes=0,
        )
    step_ms = (at.wall_ms - ledger.at.wall_ms) - (at.boot_ms - ledger.at.boot_ms)
    same_boot = at.boot_id == ledger.at.boot_id
    return replace(
        _account(ledger, entry),
        at=at,
        ahead_ms=max(ledger.ahead_ms + step_ms, 0) if same_boot else 0,
        checksum=entry["checksum"],
        size_bytes=ledger.size_bytes + length + 1,
    )


def _account(ledger: Ledger, entry: dict[str, Any]) -> Ledger:
    """What an entry does to money: the one place that adds."""
    kind = entry["entry"]
    if kind in ("charge", "gap"):
        elapsed_ms = round(1000 * entry["seconds"])
        expected = _charge_fields(ledger, elapsed_ms)
        if any(entry[field] != value for field, value in expected.items()):
            raise ValueError("sum")
        return replace(ledger, spent_usd=Decimal(entry["cumulative_usd"]), closed=False,
                       unread_ms=ledger.unread_ms + elapsed_ms)  # fmt: skip
    if kind in ("price", "carry"):
        price = _price_of(entry) if kind == "price" else ledger.price
        usd = Decimal(entry["usd"])
        if usd != (_rise_usd(ledger, price) if kind == "price" else max(usd, Decimal(0))):
            raise ValueError("usd")
        if Decimal(entry["cumulative_usd"]) != ledger.spent_usd + usd:
            raise ValueError("sum")
        return replace(ledger, price=price, spent_usd=ledger.spent_usd + usd,
                       unread_ms=0 if kind == "price" else ledger.unread_ms)  # fmt: skip
    if kind == "reserve":
        return replace(ledger, reserved_usd=float(entry["usd"]))
    if kind == "seal":
        if ledger.prediction_sha256 is not None:
            raise ValueError("sealed")
        return replace(ledger, prediction_sha256=str(entry["prediction_sha256"]))
    if kind == "close":
        return replace(ledger, closed=True)
    if kind in ("open", "repair"):
        return ledger
    raise ValueError("entry")


def _charge_fields(ledger: Ledger, milliseconds: int) -> dict[str, Any]:
    if milliseconds < 0:
        raise ValueError("time runs forward")
    usd = cost_usd(ledger.price, milliseconds)
    return {
        "seconds": milliseconds / 1000,
        "price_usd_per_hour": ledger.price.usd_per_hour,
        "usd": f"{usd:f}",
        "cumulative_usd": f"{ledger.spent_usd + usd:f}",
    }


def _rise_usd(ledger: Ledger, price: Price) -> Decimal:
    """What the seconds since the last reading cost more at `price`; nothing if it is no dearer."""
    rise_usd = cost_usd(price, ledger.unread_ms) - cost_usd(ledger.price, ledger.unread_ms)
    return max(rise_usd, Decimal(0))


def _price_fields(price: Price) -> dict[str, str | float]:
    return {
        "price_usd_per_hour": price.usd_per_hour,
        "source": price.source,
        "date": price.date,
    }


def _price_of(entry: dict[str, Any]) -> Price:
    return Price(_positive(entry["price_usd_per_hour"]), entry["source"], entry["date"])


def _positive(amount: float) -> float:
    if not (math.isfinite(amount) and amount > 0):
        raise ValueError("amount")
    return float(amount)
