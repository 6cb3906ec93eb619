"""The dead-man's limit: what ends a rented machine when nobody else can any more.

A supervisor stops its trainer at the ceiling, but it can be killed, and its host can die, while the
provider goes on billing. So a timer is armed outside the machine before training starts: a process
on the host that launches it. It keeps an account of its own, reads the price itself, and when what
the machine may still cost is spent it runs `money.stop_command`, again and again until that
succeeds. (On one's own machine the keeper is enough: see `x1.keeper`.)

A provider that ends a machine by itself after some hours (`money.max_lifetime_hours`) will do
instead of a timer, if those hours are paid for at the price in force.

A limit is never extended. When the machine has been given back, `disarm`; for the next machine of
the same run, `arm` again, which goes on from what the last timer has counted:

    python -m x1.deadman arm RUN      python -m x1.deadman disarm RUN
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from x1 import clock, folder, guard, ledger, money, price
from x1.config import RunConfig
from x1.ledger import Instant, Ledger
from x1.text import UserError, say

FORMAT = "x1-deadman-1"
STATE = "deadman.json"
POLL_S = 10.0
READ_EVERY_S = 60.0  # often, so that a rise is hardly charged for time before it
END_S = 55.0  # a poll, and until the provider has taken the machine away
MARGIN_S = guard.PRICE_RISE * END_S  # what `has_passed` keeps, in seconds at the price in force
COMMAND_S = 300.0  # how long one try of the stop command may take


# ---- The limit


@dataclass(frozen=True)
class Limit:
    """What a machine may still cost, as counted outside it."""

    left_usd: float
    usd_per_hour: float
    unread_s: float = 0.0  # since the price was last read


def advance(limit: Limit, seconds: float, read_usd_per_hour: float | None = None) -> Limit:
    """`seconds` later; a dearer price just read is charged for all of the time since the last.

    Where more than one reading is missing, a price may have come and gone: that time is charged at
    the most it may have been.
    """
    unread_s = limit.unread_s + seconds
    left_usd = limit.left_usd - limit.usd_per_hour * seconds / 3600
    if read_usd_per_hour is None or not price.is_possible(read_usd_per_hour):
        return Limit(left_usd, limit.usd_per_hour, unread_s)
    dearest = max(read_usd_per_hour, limit.usd_per_hour)
    if unread_s > guard.PRICE_EVERY_S:
        dearest = max(dearest, guard.PRICE_RISE * limit.usd_per_hour)
    rise_usd = (dearest - limit.usd_per_hour) * unread_s / 3600
    return Limit(left_usd - rise_usd, read_usd_per_hour)


def has_passed(limit: Limit) -> bool:
    """Whether the machine must be ended now to cost no more than it may."""
    return limit.left_usd <= guard.at_risk_usd(limit.usd_per_hour, END_S, limit.unread_s)


def hours_left(limit: Limit) -> float:
    """Hours until the limit passes, if the price stays what it is."""
    left_usd = limit.left_usd - guard.at_risk_usd(limit.usd_per_hour, END_S, 0.0)
    return max(left_usd, 0.0) / limit.usd_per_hour


# ---- Whether a run may start


def require(run: Path, config: RunConfig, book: Ledger, at: Instant, i_will_watch: bool) -> str:
    """The sentence that says what ends a rented machine if nobody else can.

    Raises UserError when nothing does and nobody promises to watch, or when the limit comes too
    late to keep the run below its ceiling.
    """
    left_hours = ledger.left_usd(book) / book.price.usd_per_hour
    lifetime = config.money.max_lifetime_hours
    if lifetime is not None:
        age_hours = (at.boot_ms - machine_started(at, []).boot_ms) / 3_600_000
        if lifetime - age_hours > left_hours:
            raise UserError("deadman.too_late", hours=f"{lifetime:g}",
                            most=f"{left_hours + age_hours:.2f}")  # fmt: skip
        return say("deadman.provider", hours=f"{lifetime:g}")
    armed = read_state(run)
    if armed and armed["status"] == "armed" and armed["boot_id"] != at.boot_id:
        until = datetime.fromisoformat(armed["until"])
        hours = (until.timestamp() - at.wall_ms / 1000) / 3600
        if hours > 0:
            return say("deadman.timer", host=armed["host"], until=armed["until"])
    if not i_will_watch:
        raise UserError("deadman.none", run=run)
    return say("deadman.watched")


def machine_started(at: Instant, others: list[Ledger]) -> Instant:
    """When a rented machine's meter began: its first process, or where another ledger of this boot
    (`money.counted`) has left off, whichever is later. `at` itself where the system does not say.
    """
    started_ms = clock.process_start_ms(1)
    counted = [o.at.boot_ms for o in others if o.at.boot_id == at.boot_id]
    age_ms = at.boot_ms - max([started_ms if started_ms is not None else at.boot_ms, *counted])
    age_ms = max(age_ms, 0)
    return replace(at, wall_ms=at.wall_ms - age_ms, boot_ms=at.boot_ms - age_ms)


def spent_before(config: RunConfig) -> list[tuple[Path, Ledger]]:
    """The ledgers that count towards this run's ceiling. Raises UserError if one is unreadable."""
    return [(Path(name), ledger.read_ledger(Path(name))) for name in config.money.counted]


# ---- The timer, outside a rented machine


def arm(run: Path, config: RunConfig, at: Instant) -> dict[str, Any]:
    """Start the timer of a run on this host, which must not be the machine; returns its state.

    Raises UserError for one's own machine, without a stop command, when the price cannot be read,
    or when nothing is left to spend.
    """
    if money.hardware(config.money.hardware).own:
        raise UserError("deadman.own", hardware=config.money.hardware)
    if not config.money.stop_command:
        raise UserError("deadman.no_command")
    state = read_state(run) or {}
    if state.get("status") == "armed" and is_running(state):
        raise UserError("deadman.armed", pid=state["pid"], run=run)
    limit = Limit(left_usd(run, config, state, at), price.Reader(config).read(at).usd_per_hour)
    money.positive("price_usd_per_hour", limit.usd_per_hour)
    if has_passed(limit):
        raise UserError("deadman.nothing_left", left=money.usd(max(limit.left_usd, 0.0)))
    write_state(run, config, limit, at, "armed", os.getpid())
    with (run / "deadman.log").open("ab") as log:
        timer = subprocess.Popen(
            [sys.executable, "-m", "x1.deadman", "timer", str(run.absolute())],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    return write_state(run, config, limit, at, "armed", timer.pid)


def left_usd(run: Path, config: RunConfig, state: dict[str, Any], at: Instant) -> float:
    """What the run's machine may still cost: the less of what its ledger says, time nobody watched
    included, and what an earlier timer had left, until now if that one died armed."""
    if ledger.exists(run):
        book = ledger.read_ledger(run)
        unwatched_ms = 0 if book.closed else ledger.unwatched_ms(book, at)
        left = ledger.left_usd(book) - float(ledger.cost_usd(book.price, unwatched_ms))
    else:
        left = config.money.ceiling_usd - sum(float(b.spent_usd) for _, b in spent_before(config))
    if state.get("status") == "disarmed":
        left = min(left, state["left_usd"])
    elif state:
        began = Instant(state["wall_ms"], state["boot_ms"], state["boot_id"])
        hours = ledger.gap_ms(began, at) / 3_600_000
        left = min(left, state["left_usd"] - hours * state["usd_per_hour"])
    return left


def disarm(run: Path) -> None:
    """End the timer: the machine has been given back. Raises UserError if there is none here."""
    state = read_state(run)
    if state is None or state["boot_id"] != clock.boot_id():
        raise UserError("deadman.not_here", run=run)
    if is_running(state):
        with suppress(ProcessLookupError):
            os.kill(state["pid"], signal.SIGTERM)
    config = folder.open_run(run)
    left = left_usd(run, config, state, clock.instant())
    folder.write_json(run / STATE, {**state, "status": "disarmed", "left_usd": left})


def timer(run: Path) -> None:
    """Count until the limit has passed, then end the machine: the body of the detached process."""
    config, reader = folder.open_run(run), price.Reader(folder.open_run(run))
    state = folder.read_json(run / STATE, FORMAT)
    began = Instant(state["wall_ms"], state["boot_ms"], state["boot_id"])
    limit, before = Limit(state["left_usd"], state["usd_per_hour"]), began
    read_ms = began.boot_ms
    while not has_passed(limit):
        time.sleep(POLL_S)
        at = clock.instant()
        due = at.boot_ms - read_ms >= 1000 * READ_EVERY_S
        later = advance(limit, (at.boot_ms - before.boot_ms) / 1000)
        if due or has_passed(later):
            read_ms = at.boot_ms
            later = advance(later, 0.0, read_usd_per_hour(reader, at))
            write_state(run, config, later, at, "armed", os.getpid())
        limit, before = later, at
    while (code := stop_machine(config.money.stop_command)) != 0:
        print(folder.now(), "exit", code, flush=True)
        time.sleep(POLL_S)
    write_state(run, config, limit, clock.instant(), "passed", os.getpid())
    folder.record_event(run, "stop", reason="deadman", rule="deadman")


def read_usd_per_hour(reader: price.Reader, at: Instant) -> float | None:
    """The price now; None if it cannot be read: then it may have trebled, which is counted on."""
    try:
        return reader.read(at).usd_per_hour
    except UserError:
        return None


def stop_machine(command: str) -> int:
    """Run the stop command once; returns its exit code, 124 when it took too long."""
    try:
        return subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, timeout=COMMAND_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        return 124
    except (OSError, ValueError) as fault:
        print(fault, flush=True)
        return 127


def read_state(run: Path) -> dict[str, Any] | None:
    """What is known of the run's timer; None without one."""
    return folder.read_json(run / STATE, FORMAT) if (run / STATE).exists() else None


def write_state(
    run: Path, config: RunConfig, limit: Limit, at: Instant, status: str, pid: int
) -> dict[str, Any]:
    """deadman.json: what is left, until when that lasts, and which process is counting."""
    until_s = at.wall_ms / 1000 + 3600 * hours_left(limit)
    state = {
        "format": FORMAT,
        "status": status,
        "time": datetime.fromtimestamp(at.wall_ms / 1000, UTC).isoformat(timespec="seconds"),
        "until": datetime.fromtimestamp(until_s, UTC).isoformat(timespec="seconds"),
        "left_usd": limit.left_usd,
        "usd_per_hour": limit.usd_per_hour,
        "command": config.money.stop_command,
        "host": socket.gethostname(),
        "pid": pid,
        "pid_started_ms": clock.process_start_ms(pid),
        "wall_ms": at.wall_ms,
        "boot_ms": at.boot_ms,
        "boot_id": at.boot_id,
    }
    folder.write_json(run / STATE, state)
    return state


def is_running(state: dict[str, Any]) -> bool:
    """Whether the process that a state names is the one that was started, and still there."""
    if state["boot_id"] != clock.boot_id():
        return False
    if state["pid_started_ms"] is not None:
        return clock.process_start_ms(state["pid"]) == state["pid_started_ms"]
    try:
        os.kill(state["pid"], 0)
    except OSError:
        return False
    return True


def main(arguments: list[str]) -> int:
    """arm and disarm are for people; timer is what arm starts."""
    try:
        match arguments:
            case ["timer", run]:
                timer(Path(run))
            case ["arm", run]:
                state = arm(Path(run), folder.open_run(Path(run)), clock.instant())
                print(say("deadman.is_armed", pid=state["pid"], until=state["until"],
                          command=state["command"]))  # fmt: skip
            case ["disarm", run]:
                disarm(Path(run))
                print(say("deadman.is_disarmed", run=run))
            case _:
                raise UserError("deadman.usage")
    except UserError as fault:
        print(fault, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
