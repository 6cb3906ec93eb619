"""A run on another machine, watched through the system's ssh: `x1 watch ssh://user@host/PATH`.

`x1 watch PATH --json --follow` runs there and says what it sees; here it is drawn. Keys, jump hosts
and the rest are the business of ssh and its own configuration; it is never asked for a password.
"""

import json
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from x1 import ssh
from x1.text import UserError, say

SCHEME = "ssh://"
NO_X1 = 127
WAITS_S = (2.0, 4.0, 8.0, 15.0, 30.0, 60.0)  # between one try and the next; the last goes on
# Beside the run's project, as `x1 launch` sets it up, or else wherever the login shell finds it.
THERE = """
run={path} follow={follow}
d=$(dirname "$(dirname "$run")")
p=$d/.venv/bin/python
[ -x "$p" ] && [ -d "$d/src/x1" ] && PYTHONPATH=$d/src exec "$p" -c \
  'from x1.cli import main; main()' watch "$run" --json $follow
p=$(command -v x1) && exec "$p" watch "$run" --json $follow
exit 127
"""

Json = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A run's folder on another machine."""

    machine: ssh.Machine
    path: str

    def command(self, follow: bool) -> list[str]:
        """What to execute here for its snapshots, one JSON line each."""
        there = THERE.format(path=shlex.quote(self.path), follow="--follow" if follow else "")
        return ssh.command(self.machine, there)


def parse(target: str, config: Path | None = None) -> Target:
    """`ssh://user@host[:port]/PATH`; "/~/" begins in the home folder. Raises UserError."""
    where, slash, path = target.removeprefix(SCHEME).partition("/")
    if not slash or not path.strip("/") or not path.isprintable():
        raise UserError("watch.no_path")
    path = path.removeprefix("~/") if path.startswith("~/") else f"/{path}"
    if path.startswith("-"):
        path = f"./{path}"
    host, user, port = ssh.parse_target(SCHEME + where)
    machine = ssh.Machine(host, user, port, ssh.readable(config) if config else None)
    return Target(machine, path)


@dataclass
class Link:
    """Snapshots as they arrive, in a thread of its own; it connects again when it is cut off."""

    target: Target
    latest: Json | None = None
    received_s: float = 0.0
    lost: bool = False
    ended: bool = False
    fault: UserError | None = None
    process: subprocess.Popen[bytes] | None = None
    closing: threading.Event = field(default_factory=threading.Event)

    def work(self) -> None:
        tries = 0
        while not self.closing.is_set():
            code, said, lines = self.listen()
            if self.closing.is_set():
                return
            if code == 0 or (self.latest and self.latest.get("state") == "finished"):
                self.ended = True
                return
            reached = code != ssh.BROKEN and code >= 0
            if reached or self.latest is None:
                self.fault = why(self.target, code, said)
                return
            tries = 0 if lines else tries + 1
            self.lost = True
            self.closing.wait(WAITS_S[min(tries, len(WAITS_S) - 1)])

    def listen(self) -> tuple[int, bytes, int]:
        """One connection: its exit code, what was said on standard error, lines received."""
        self.process = subprocess.Popen(
            self.target.command(follow=True), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self.process.stdout and self.process.stderr
        lines = 0
        for line in self.process.stdout:
            with suppress(ValueError):
                seen = json.loads(line)
                self.latest, self.received_s, self.lost = seen, time.monotonic(), False
                lines += 1
        said = self.process.stderr.read(10_000)
        return self.process.wait(), said, lines

    def close(self) -> None:
        self.closing.set()
        if self.process is not None:
            with suppress(OSError):
                self.process.terminate()


def why(target: Target, code: int, said: bytes) -> UserError:
    """The sentence for a connection that never showed a run, or no longer does."""
    host, fault = target.machine.host, ssh.last_line(said)
    if code == ssh.BROKEN or code < 0:
        return ssh.Unreachable("ssh.unreachable", host=host, fault=fault or say("ssh.cut"))
    if code == NO_X1:
        return UserError("watch.no_x1", host=host, path=target.path)
    return UserError("watch.not_seen", host=host, path=target.path, fault=fault or f"exit {code}")


def looks(target: Target, pause_s: float = 0.2) -> Iterator[tuple[Json, float, bool]]:
    """(snapshot, when it came on the monotonic clock, whether the connection is lost), over and
    over, until the run has ended. Raises UserError when there is nothing to see.
    """
    link = Link(target)
    thread = threading.Thread(target=link.work, daemon=True)
    thread.start()
    try:
        while thread.is_alive() or link.ended:
            ended = link.ended
            if link.latest is not None:
                yield link.latest, link.received_s, link.lost
            if ended:
                return
            thread.join(pause_s)
        if link.fault is not None:
            raise link.fault
        if link.latest is not None:
            yield link.latest, link.received_s, link.lost
    finally:
        link.close()


def once(target: Target) -> str:
    """The snapshot's JSON line as it came. Raises UserError when there is none."""
    done = subprocess.run(
        target.command(follow=False), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        raise why(target, done.returncode, done.stderr)
    return done.stdout.decode("utf-8", "replace").strip()
