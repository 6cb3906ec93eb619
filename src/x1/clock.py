"""What time it is, on clocks whose faults are known: for everything that counts dollars."""

import os
import time
import uuid
from functools import cache
from pathlib import Path

from x1.ledger import Instant


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


def process_start_ms(pid: int) -> int | None:
    """When a process started, on the clock of `Instant.boot_ms`; None if there is none, or where
    the system does not say (proc_pid_stat(5), field 22).

    With its number it tells a process from a later one of the same number. Process 1 is the first
    of a machine or of a container: it started when the machine did.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        if fields[0] in "ZX":
            return None
        return int(fields[19]) * 1000 // os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
