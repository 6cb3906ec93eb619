"""The near side of an `ssh` launch: what the machine sends becomes part of the run's folder.

Nothing is taken on trust. A log only grows: what arrives is put behind what is here, and a log that
does not go on from it is refused. A checkpoint appears whole, its checksums right and of this run,
or not at all. A name cannot lead out of the folder, nor replace what was written before the launch.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from x1 import folder, launch, launch_machine, saved, ssh
from x1.launch import tell
from x1.ssh import Machine, Unreachable
from x1.text import UserError, language, say

STATUS_FORMAT = "x1-launch-status-1"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*){0,4}")
CHECKPOINT = re.compile(r"step-\d{8}")
SEALED = (folder.CONFIG, folder.PLAN)  # what was launched: nothing that comes back changes it
MOST_HEADER_BYTES = 1 << 16
MOST_FILE_BYTES = 1 << 30  # of a file that is held in memory; checkpoints are not
GREETING_BYTES = 1 << 16

Json = dict[str, Any]


class Cut(Exception):
    """What arrives ends in the middle."""


# ---- Asking for it


def there(run: Path) -> str:
    """The run's folder on the machine, from the project's."""
    return f"runs/{run.absolute().name}"


def machine_script(machine: Machine, *words: str) -> str:
    """A script that runs `x1.launch_machine` with these words on the machine."""
    python = machine.python or ".venv/bin/python"
    return ssh.script(machine, python, "-m", "x1.launch_machine", *words, PYTHONPATH="src",
                      X1_LANG=language())  # fmt: skip


def patiently(attempt: Callable[[], Any], give_up_s: float) -> Any:
    """`ssh.patiently`, saying when the connection is lost and when it is back."""
    lost = []

    def told(fault: str) -> None:
        lost.append(fault)
        tell("launch.cut", fault=fault)

    result = ssh.patiently(attempt, give_up_s, told)
    if lost:
        tell("launch.back")
    return result


def sync(run: Path, machine: Machine) -> Json:
    """Fetch what is new; returns how the job stands. Raises Unreachable, UserError."""
    with alone(run), tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            ssh.command(machine, machine_script(machine, "sync", there(run))),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(have(run)).encode())
            process.stdin.close()
            return receive(run, process.stdout)
        except (Cut, BrokenPipeError):
            code = process.wait()
            said.seek(0)
            ssh.require(machine, code, said.read())
            raise Unreachable("ssh.unreachable", host=machine.host, fault=say("ssh.cut")) from None
        finally:
            process.stdout.close()
            process.kill()
            process.wait()


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """One fetch into a folder at a time; another's is waited for."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            with folder.locked(run, "fetch"):
                yield
                return
        except UserError as fault:
            if fault.key != "folder.locked" or time.monotonic() > deadline_s:
                raise
        time.sleep(0.1)


# ---- Taking it in


def have(run: Path) -> Json:
    """What is here already, as `launch_machine.sync` wants to know it."""
    there = {
        path.relative_to(run).as_posix(): launch_machine.measure(path.read_bytes())
        for path in launch_machine.files(run)
    }
    checkpoints = {}
    for step in saved.steps(run):
        state = saved.path_of(run, step) / saved.STATE
        if state.is_file():
            checkpoints[state.parent.name] = saved.sha256_of(state)
    return {"run": saved.identity(run), "files": there, "checkpoints": checkpoints}


def receive(run: Path, stream: IO[bytes]) -> Json:
    """Take in everything up to the last frame; returns how the job stands.

    Raises Cut when the stream ends before it: what was whole by then is kept. Raises UserError for
    what must not be taken in.
    """
    if not find_magic(stream):
        raise Cut
    try:
        while True:
            header = read_header(stream)
            if "status" in header:
                status = header["status"]
                prune(run, status.get("checkpoints", []))
                return write_status(run, status)
            if "checkpoint" in header:
                take_part(run, header, stream)
            else:
                take_file(run, header, stream)
    finally:
        for unfinished in (run / folder.CHECKPOINTS).glob(".step-*.fetch"):
            shutil.rmtree(unfinished, ignore_errors=True)


def find_magic(stream: IO[bytes]) -> bool:
    """Read over a greeting of the shell; whether what was waited for came."""
    for _ in range(GREETING_BYTES):
        line = stream.readline(GREETING_BYTES)
        if not line or line.endswith(launch_machine.MAGIC):
            return bool(line)
    return False


def read_header(stream: IO[bytes]) -> Json:
    line = stream.readline(MOST_HEADER_BYTES)
    if not line.endswith(b"\n"):
        raise Cut
    try:
        header = json.loads(line)
    except ValueError:
        raise UserError("launch.garbled") from None
    if not isinstance(header, dict):
        raise UserError("launch.garbled")
    return header


def take_file(run: Path, header: Json, stream: IO[bytes]) -> None:
    """A file, or what a log has grown by."""
    name, size, offset = str(header.get("file")), header.get("bytes"), header.get("offset")
    own = name.split("/")[0] in (*launch_machine.HERE, *SEALED, folder.CHECKPOINTS)
    if own or not NAME.fullmatch(name) or not isinstance(size, int):
        raise UserError("launch.bad_name", name=name)
    if not 0 <= size <= MOST_FILE_BYTES:
        raise UserError("launch.too_large", name=name)
    content = read_exactly(stream, size)
    if saved.sha256_of_bytes(content) != header.get("sha256"):
        raise UserError("launch.garbled")
    path = run / name
    if any(part.is_symlink() for part in (path, *path.parents) if part.is_relative_to(run)):
        raise UserError("launch.bad_name", name=name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if offset is None:
        folder.write_atomically(path, content)
        return
    if path.suffix not in launch_machine.GROWS:
        raise UserError("launch.bad_name", name=name)
    if offset != (path.stat().st_size if path.exists() else 0):
        raise UserError("launch.other_file", path=path)
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def take_part(run: Path, header: Json, stream: IO[bytes]) -> None:
    """One file of a checkpoint, aside; with the last one it takes its place, if it is sound."""
    name, part, size = str(header["checkpoint"]), header.get("file"), header.get("bytes")
    if not CHECKPOINT.fullmatch(name) or part not in (saved.MODEL, saved.OPTIMIZER, saved.STATE):
        raise UserError("launch.bad_name", name=f"{name}/{part}")
    final = run / folder.CHECKPOINTS / name
    aside = final.parent / f".{name}.fetch" / name
    if part == saved.MODEL:
        shutil.rmtree(aside.parent, ignore_errors=True)
        aside.mkdir(parents=True)
    if not aside.is_dir() or not isinstance(size, int):
        raise UserError("launch.garbled")
    with (aside / str(part)).open("wb") as file:
        while size > 0:
            chunk = stream.read(min(size, launch_machine.CHUNK))
            if not chunk:
                raise Cut
            file.write(chunk)
            size -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
    # What is damaged there is left there.
    if part == saved.STATE and saved.read(aside, run) is not None:
        folder.sync(aside)
        folder.replace_folder(aside, final)


def prune(run: Path, kept: list[str]) -> None:
    """Delete the checkpoints that the machine has deleted, never the newest one here."""
    steps = saved.steps(run)
    for step in steps[:-1]:
        path = saved.path_of(run, step)
        if kept and path.name not in kept:
            shutil.rmtree(path)


def write_status(run: Path, status: Json) -> Json:
    """launch-status.json: how the job stood when it was last heard of."""
    code = status.get("exit_code")
    record = {
        "format": STATUS_FORMAT,
        "time": folder.now(),
        "running": status.get("running") is True,
        "exit_code": code if isinstance(code, int) else None,
    }
    folder.write_json(run / launch.STATUS, record)
    return {**record, "nonce": status.get("nonce")}


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise Cut
    return content
