"""A machine reached by the system's own `ssh`: which one, how it is called, what a failure means.

Keys, agents, passwords and host keys are ssh's own business, set in the user's ssh configuration:
nothing here reads one, and BatchMode keeps ssh from asking. Whatever comes from a user is either
checked against what a name may be or quoted, so that neither an option of ssh nor a command of the
shell on the other side can be made of it.
"""

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from x1.text import UserError, say

ALIVE_S = 15  # a connection that has been silent for three times as long is dropped
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
BROKEN = 255  # ssh's own exit code for a connection that failed

USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*\$?")
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")

Result = TypeVar("Result")


class Unreachable(UserError):
    """The connection failed or was cut; the machine may be as well as ever."""


@dataclass(frozen=True)
class Machine:
    """Where to: user and port may be left to ssh's configuration.

    `directory` is the project's on the machine, in the user's home unless absolute. `python` is an
    interpreter there that has everything; None: the environment that `make` sets up.
    """

    host: str
    user: str | None = None
    port: int | None = None
    ssh_config: str | None = None
    directory: str = "x1"
    python: str | None = None


def parse_target(target: str) -> tuple[str, str | None, int | None]:
    """(host, user, port) of `ssh://user@host[:port]`. Raises UserError without any password."""
    try:
        parts = urlsplit(target)
        host, user, port = parts.hostname or "", parts.username, parts.port
    except ValueError:
        raise UserError("ssh.target") from None
    # urlsplit drops tabs and newlines, and lowers the host: what is left must be all there was.
    plain = f"ssh://{user + '@' if user else ''}{'[' + host + ']' if ':' in host else host}"
    plain += f":{port}" if port is not None else ""
    if parts.password is not None:
        raise UserError("ssh.password")
    if target.rstrip("/").lower() != plain.lower() or not HOST.fullmatch(host) or port == 0:
        raise UserError("ssh.target")
    if user is not None and not USER.fullmatch(user):
        raise UserError("ssh.target")
    return host, user, port


def command(machine: Machine, script: str) -> list[str]:
    """The words that run a script of `sh` on the machine."""
    config = ["-F", machine.ssh_config] if machine.ssh_config else []
    port = ["-p", str(machine.port)] if machine.port else []
    user = ["-l", machine.user] if machine.user else []
    options = {
        "BatchMode": "yes",
        "ConnectTimeout": ALIVE_S,
        "ServerAliveInterval": ALIVE_S,
        "ServerAliveCountMax": 3,
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
    }
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    # The login shell of the other side may be any: it is only asked to start sh.
    return ["ssh", "-T", *config, *given, *port, *user, "--", machine.host,
            f"exec sh -c {shlex.quote(script)}"]  # fmt: skip


def script(machine: Machine, *words: str, **environment: str) -> str:
    """Words as a line of `sh`, to be run in the project's folder on the machine."""
    given = [f"{name}={value}" for name, value in environment.items()]
    line = shlex.join([*(["env", *given] if given else []), *words])
    return f"CDPATH= cd -- {shlex.quote(machine.directory)} && exec {line}"


def ask(machine: Machine, script: str, stdin: bytes = b"", timeout_s: float | None = None) -> bytes:
    """What a script prints. Raises Unreachable if the connection fails, UserError if it does."""
    try:
        done = subprocess.run(
            command(machine, script), input=stdin, capture_output=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise UserError("ssh.not_installed") from None
    except subprocess.TimeoutExpired:
        raise Unreachable("ssh.unreachable", host=machine.host, fault=say("ssh.silent")) from None
    require(machine, done.returncode, done.stderr)
    return done.stdout


def require(machine: Machine, code: int, stderr: bytes) -> None:
    """Raise what an exit code of ssh means: nothing, Unreachable, or a command that failed."""
    if code == 0:
        return
    fault = last_line(stderr)
    if code == BROKEN or code < 0:  # below zero: the ssh of this side was killed
        fault = fault.rstrip(".") or say("ssh.cut")
        raise Unreachable("ssh.unreachable", host=machine.host, fault=fault)
    raise UserError("ssh.failed", host=machine.host, code=code, fault=fault)


def last_line(stderr: bytes) -> str:
    """The last thing that was said, without what could steer a terminal."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "")
    return "".join(c for c in said if c.isprintable())[:300]


def patiently(
    attempt: Callable[[], Result], give_up_s: float, told: Callable[[str], None]
) -> Result:
    """`attempt` again and again while the connection fails, waiting longer each time.

    `told` hears of the first failure. Raises the last Unreachable when `give_up_s` seconds have
    passed since that.
    """
    wait_s, failing_since_s = FIRST_WAIT_S, None
    while True:
        try:
            return attempt()
        except Unreachable as fault:
            if failing_since_s is None:
                failing_since_s = time.monotonic()
                told(str(fault))
            if time.monotonic() + wait_s > failing_since_s + give_up_s:
                raise
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def readable(path: Path) -> str:
    """A configuration file of ssh, absolute. Raises UserError if it is not there."""
    if not path.is_file():
        raise UserError("ssh.no_config", path=path)
    return str(path.absolute())
