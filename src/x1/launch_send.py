"""What an `ssh` launch sends: the project, its data, the run's folder. All of it can be sent again.

What is there already is not sent twice, and what was cut off goes on or begins anew.
"""

import os
import shlex
import subprocess
import tarfile
import tempfile
from pathlib import Path

from rich.progress import Progress

from x1 import data, deadman, launch, ssh
from x1.config import RunConfig
from x1.launch import tell
from x1.launch_fetch import patiently, sync, there
from x1.ssh import Machine
from x1.text import UserError, say

ROOT = Path(__file__).parents[2]
# What the trainer is made of and installed from; nothing else of the project is copied.
NEEDED = ("LICENSE", "LICENSE-TEXT", "Makefile", "README.md", "constraints.txt", "pyproject.toml",
          "src")  # fmt: skip
SET_UP = ".make/core"  # the Makefile's target
COMMIT = "COMMIT"  # beside the copy: which commit it is of, for there is no .git
SETTING_UP_S = 900.0  # a connection may fail for so long while things are being copied


def project_files(root: Path) -> list[str]:
    """The files of the package and its installation that git does not ignore, as they are now.

    Nothing hidden is among them: that is where keys and tokens are kept.
    """
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *NEEDED]
    try:
        listed = subprocess.run(listing, cwd=root, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        raise UserError("launch.no_project", path=root) from None
    hidden = [name for name in listed.split("\0") if name.startswith(".") or "/." in name]
    names = [n for n in listed.split("\0") if n not in hidden and (root / n).is_file()]
    if not {"Makefile", "pyproject.toml", "constraints.txt"} <= set(names):
        raise UserError("launch.no_project", path=root)
    return names


def set_up(machine: Machine, files: list[str]) -> None:
    """Copy the project and, unless an interpreter was named, let its Makefile install it."""
    entries = [(ROOT / name, name) for name in files]
    unpack = unpack_script(machine)
    patiently(lambda: send(machine, unpack, entries, say("launch.copying")), SETTING_UP_S)
    label = ssh.script(machine, "sh", "-c", f"cat > {COMMIT}")
    patiently(lambda: ssh.ask(machine, label, commit().encode()), SETTING_UP_S)
    if machine.python is None:
        tell("launch.setting_up", target=SET_UP)
        make = make_script(machine)
        patiently(lambda: run_loudly(machine, make), SETTING_UP_S)


def commit() -> str:
    """Which commit the project's files are of; "" where nobody can say."""
    from x1 import hardware  # torch, for those who launch

    return hardware.git_commit() or ""


def unpack_script(machine: Machine) -> str:
    where = shlex.quote(machine.directory)
    return f"mkdir -p -- {where} && CDPATH= cd -- {where} && exec tar -xf -"


def make_script(machine: Machine) -> str:
    """Set the project up; TORCH_ARGS means there what it means here.

    Where a connection was cut, `make` may still be at it: where there is `flock`, it is waited for.
    """
    torch_args = os.environ.get("TORCH_ARGS")
    make = shlex.join(["make", SET_UP, *([f"TORCH_ARGS={torch_args}"] if torch_args else [])])
    line = f"if command -v flock >/dev/null; then exec flock .set-up.lock {make}; fi; exec {make}"
    return ssh.script(machine, "sh", "-c", line)


def run_loudly(machine: Machine, script: str) -> None:
    """Run a script there, what it says being shown here."""
    done = subprocess.run(
        ssh.command(machine, f"({script}) 1>&2"), stdin=subprocess.DEVNULL, check=False
    )
    ssh.require(machine, done.returncode, b"")


def send_data(config: RunConfig, machine: Machine) -> None:
    """Send prepared data that is not there yet; what is not prepared, the machine prepares."""
    source = data.path_of(config)
    if not (source / data.INDEX).is_file():
        return
    final = shlex.quote(f"data/{source.name}")
    aside = shlex.quote(f"data/.{source.name}.sent")
    into = ssh.script(machine, "sh", "-c", f"mkdir -p {aside} && cd {aside} && exec tar -xf -")
    look = f"test -d {final} && cat {final}/{data.INDEX}; cd {aside} 2>/dev/null && wc -c *; true"
    index = (source / data.INDEX).read_bytes()

    def attempt() -> None:
        found = ssh.ask(machine, ssh.script(machine, "sh", "-c", look))
        if index in found:
            return
        sent = {line.split()[-1]: line.split()[0] for line in found.decode().splitlines()
                if len(line.split()) == 2}  # fmt: skip
        names = [*data.read_index(source)["files"], data.INDEX]
        missing = [n for n in names if sent.get(n) != str((source / n).stat().st_size)]
        send(machine, into, [(source / n, n) for n in missing], say("launch.sending_data"))
        rename = f"rm -rf {final} && mv {aside} {final}"
        ssh.ask(machine, ssh.script(machine, "sh", "-c", rename))

    patiently(attempt, SETTING_UP_S)


def hand_over(run: Path, machine: Machine) -> None:
    """Send the run's folder, if it is not there yet: it appears there whole.

    Raises UserError if a run of that name is there and is another.
    """
    final, aside = there(run), f"runs/.{run.absolute().name}.sent"
    quoted = shlex.quote(aside)
    unpack = f"rm -rf {quoted} && mkdir -p {quoted} && cd {quoted} && exec tar -xf -"
    into = ssh.script(machine, "sh", "-c", unpack)
    look = ssh.script(machine, "sh", "-c", f"test -e {shlex.quote(final)} && echo there; true")
    entries = [(run / name, name) for name in run_files(run)]

    def attempt() -> None:
        if b"there" in ssh.ask(machine, look).splitlines():
            sync(run, machine)
            send_limit(run, machine)
            return
        send(machine, into, entries, say("launch.handing_over"))
        ssh.ask(machine, ssh.script(machine, "mv", "--", aside, final))

    patiently(attempt, SETTING_UP_S)


def send_limit(run: Path, machine: Machine) -> None:
    """The state of this side's timer, which a machine asks for before it trains."""
    state = run / deadman.STATE
    if state.exists():
        final = shlex.quote(f"{there(run)}/{deadman.STATE}")
        put = f"cat > {final}.sent && mv {final}.sent {final}"
        ssh.ask(machine, ssh.script(machine, "sh", "-c", put), state.read_bytes())


def run_files(run: Path) -> list[str]:
    """Everything of a run that goes along: all but what is hidden, and this side's own notes."""
    names = [path.relative_to(run) for path in sorted(run.rglob("*")) if path.is_file()]
    hidden = [name for name in names if any(part.startswith(".") for part in name.parts)]
    own = (Path(launch.RECORD), Path(launch.STATUS))
    return [name.as_posix() for name in names if name not in hidden and name not in own]


def send(machine: Machine, script: str, entries: list[tuple[Path, str]], label: str) -> None:
    """Files as a tar archive into a script there, with a bar."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            ssh.command(machine, script), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=said,
        )  # fmt: skip
        assert process.stdin is not None
        try:
            with (
                Progress(*Progress.get_default_columns(), transient=True) as bar,
                tarfile.open(
                    fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT
                ) as archive,
            ):
                task = bar.add_task(label, total=sum(path.stat().st_size for path, _ in entries))
                for path, name in entries:
                    archive.add(path, name, recursive=False, filter=plainly)
                    bar.advance(task, path.stat().st_size)
            process.stdin.close()
        except BrokenPipeError:
            pass  # the exit code says why
        finally:
            code = process.wait()
            said.seek(0)
            ssh.require(machine, code, said.read())


def plainly(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's user or group of this side means anything there."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry
