"""A real SSH server on loopback, with keys of its own, and the client's configuration for it:

with Sshd(folder) as server:
    subprocess.run(["ssh", "-F", server.config, "-p", str(server.port), "127.0.0.1", "true"])
"""

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
START_S = 20.0


def missing() -> list[str]:
    """The programs that are not here."""
    return [p for p in ("sshd", "ssh", "ssh-keygen") if shutil.which(p, path=PATH) is None]


class Sshd:
    """Runs as whoever runs the tests; only the key it makes may log in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "ssh_config"
        self.target = ""
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sshd":
        self.folder.mkdir()
        for name in ("host", "key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name]
            subprocess.run(command, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.target = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        (self.folder / "authorized").write_bytes((self.folder / "key.pub").read_bytes())
        self.trust((self.folder / "host.pub").read_text())
        self.config.write_text(
            f"Host *\n  IdentityFile {self.folder}/key\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder}/known\n  GlobalKnownHostsFile /dev/null\n"
            "  StrictHostKeyChecking yes\n"
        )
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nPidFile none\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\n"
        )
        self.start()
        return self

    def __exit__(self, *fault: Any) -> None:
        self.cut()

    def trust(self, key: str) -> None:
        """Make `key` the one that the client knows this host by."""
        kind, value = key.split()[:2]
        (self.folder / "known").write_text(f"[127.0.0.1]:{self.port} {kind} {value}\n")

    def start(self) -> None:
        """Listen; returns once it does."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # as its service would
        program = shutil.which("sshd", path=PATH)
        assert program
        self._process = subprocess.Popen(
            [program, "-D", "-E", self.folder / "log", "-f", self.folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_S
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)

    def cut(self) -> None:
        """Kill the server and every connection it has; what was started detached lives on."""
        if self._process is None:
            return
        own = psutil.Process(self._process.pid)
        sessions = [p for p in own.children(recursive=True) if p.name().startswith("sshd")]
        for process in [own, *sessions]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None
