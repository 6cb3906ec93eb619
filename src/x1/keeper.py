"""The keeper: a small process beside a supervisor that ends its trainer if it cannot.

It hears the supervisor every 10 seconds through a pipe, its standard input. If that breaks, or
falls silent, the trainer is asked to save and to end, and is killed if that takes too long.

Run as a script of its own and made of the standard library alone: it starts in an instant, weighs
little, and has nothing to fail with.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

SILENT_S = 300.0  # how long a supervisor may be silent before it counts as gone
TICK_S = 0.2


@dataclass
class Keeper:
    """The supervisor's end of the pipe."""

    process: subprocess.Popen[bytes]

    def guard(self, pid: int) -> None:
        """Name the trainer, which leads a session of its own."""
        self._say(f"trainer {pid} {start_ticks(pid)}")

    def hear(self) -> None:
        """The supervisor is alive."""
        self._say("alive")

    def _say(self, message: str) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # a keeper that was killed cannot be told
            self.process.stdin.write(message.encode() + b"\n")


@contextmanager
def kept(run: Path, saving_s: float, silent_s: float = SILENT_S) -> Iterator[Keeper]:
    """A keeper for as long as the block runs; it outlives this process if that is killed.

    `saving_s` is what a trainer without a supervisor has for its checkpoint.
    """
    command = [sys.executable, "-I", "-S", __file__, str(run), str(saving_s), str(silent_s)]
    process = subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        yield Keeper(process)
    finally:  # the trainer has ended: nothing is left to keep
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def start_ticks(pid: int) -> int:
    """When a process started, to tell it from a later one of the same number; 0 if there is none,
    or where the system does not say (proc_pid_stat(5), field 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def keep(run: Path, saving_s: float, silent_s: float) -> None:
    """Listen until the supervisor is gone or silent, then end its trainer."""
    pid, started, pending = 0, 0, b""
    while select.select([0], [], [], silent_s)[0]:
        heard = os.read(0, 4096)
        if not heard:
            break
        *lines, pending = (pending + heard).split(b"\n")
        for line in lines:
            if line.startswith(b"trainer "):
                pid, started = (int(word) for word in line.split()[1:])
    if pid:
        end_trainer(run, pid, started, saving_s)


def end_trainer(run: Path, pid: int, started: int, saving_s: float) -> None:
    """Ask the trainer to save and to end; kill its session after `saving_s`."""
    deadline_s = time.monotonic() + saving_s
    signals = [signal.SIGTERM]
    while start_ticks(pid) == started and is_there(pid):
        with suppress(OSError):
            while signals:
                os.kill(pid, signals.pop())
        if time.monotonic() > deadline_s:
            with suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            with suppress(OSError):
                record(run)
            return
        time.sleep(TICK_S)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def record(run: Path) -> None:
    """The line of events.jsonl that says who killed the trainer (see `folder.record_event`)."""
    when = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"event": "stop", "time": when, "reason": "deadman", "rule": "deadman"})
    with (run / "events.jsonl").open("ab", buffering=0) as file:
        file.write(line.encode() + b"\n")
        os.fsync(file.fileno())


if __name__ == "__main__":
    keep(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
