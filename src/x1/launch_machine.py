"""The side of an `ssh` launch that runs on the machine: start, report and send, stop.

    python -m x1.launch_machine start RUN NONCE [--i-will-watch]    detached; twice is once
    python -m x1.launch_machine sync RUN      on stdin what is there already; the rest comes back
    python -m x1.launch_machine stop RUN      ask for an end; close a ledger nobody writes any more

What `sync` prints is MAGIC, then frames: a line of JSON, then as many bytes as it says. The last
one says how the job stands. A shell that greets on standard output is read over.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from x1 import clock, deadman, folder, launch, ledger, money, saved, supervise
from x1.text import UserError

FORMAT = "x1-launch-machine-1"
STATE = ".launch.json"
LOG = "launch.log"
MAGIC = b"x1-launch-sync-1\n"
START_S = 60.0  # how long a start may take until the job is on record
CHUNK = 1 << 20
GROWS = (".jsonl", ".log")  # appended to and never rewritten: only what is new is sent
HERE = (launch.RECORD, launch.STATUS, deadman.STATE)  # the launching side's own: never sent back

Json = dict[str, Any]


# ---- The job


def start(run: Path, nonce: str, options: list[str]) -> None:
    """Start the job in a session of its own, unless the start of this nonce has been made.

    Raises UserError if it does not come up, or another is running.
    """
    folder.open_run(run)
    deadline_s = time.monotonic() + START_S
    if read_state(run).get("nonce") == nonce:
        return
    if is_running(run):
        raise UserError("launch.running", run=run)
    with (run / LOG).open("ab") as log:
        job = subprocess.Popen(
            [sys.executable, "-m", "x1.launch_machine", "job", str(run), nonce, *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    while True:
        ended = job.poll() is not None  # looked at first: it may be done by the next line
        if read_state(run).get("nonce") == nonce:
            return
        if ended or time.monotonic() > deadline_s:
            raise UserError("launch.not_up", run=run, log=run / LOG)
        time.sleep(0.05)


def job(run: Path, nonce: str, options: list[str]) -> int:
    """The job itself: `x1 train --out RUN`, and on record what has become of it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(supervise.INTERRUPTED))
    with folder.locked(run, "launch"):
        state: Json = {
            "format": FORMAT,
            "nonce": nonce,
            "pid": os.getpid(),
            "pid_started_ms": clock.process_start_ms(os.getpid()),
            "boot_id": clock.boot_id(),
            "exit_code": None,
        }
        folder.write_json(run / STATE, state)
        from x1 import cli

        sys.argv = ["x1", "train", "--out", str(run), *options]
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        folder.write_json(run / STATE, {**state, "exit_code": code})
    return code


def read_state(run: Path) -> Json:
    """What is on record of the newest job; empty before the first."""
    return folder.read_json(run / STATE, FORMAT) if (run / STATE).exists() else {}


def is_running(run: Path) -> bool:
    """Whether the job on record is still there."""
    state = read_state(run)
    return bool(state) and state["exit_code"] is None and deadman.is_running(state)


def stop(run: Path) -> None:
    """Ask the job to save and to end; if it is gone, close the ledger it has left open."""
    if is_running(run):
        with suppress(ProcessLookupError):
            os.kill(read_state(run)["pid"], signal.SIGTERM)
    elif ledger.exists(run):
        close_ledger(run)


def close_ledger(run: Path) -> None:
    """Charge what nobody watched and stop the meter. Raises UserError if somebody is writing."""
    own = money.hardware(folder.open_run(run).money.hardware).own
    with folder.locked(run, "supervise"):
        if not ledger.read_ledger(run).closed:
            at = clock.instant()
            book = ledger.resume(run, at, None if own else deadman.machine_started(at, []))
            ledger.close(run, book, at, "stopped")


# ---- What is sent


def sync(run: Path, have: Json, out: IO[bytes]) -> None:
    """Send what the other side does not have yet, then how the job stands.

    `have` maps names to size and SHA-256 of what is there, checkpoints to that of their state.json.
    Raises UserError if the other side's is another run.
    """
    if have["run"] != saved.identity(run):
        raise UserError("launch.other_run", run=run)
    status = status_of(run)  # before the files: once it says ended, what follows is all there is
    out.write(MAGIC)
    for path in files(run):
        send_file(run, path, have["files"].get(path.relative_to(run).as_posix()), out)
    for step in saved.steps(run):
        send_checkpoint(saved.path_of(run, step), have["checkpoints"], out)
    kept = [saved.path_of(run, step).name for step in saved.steps(run)]
    frame(out, {"status": {**status, "checkpoints": kept}})
    out.flush()


def status_of(run: Path) -> Json:
    state = read_state(run)
    running = is_running(run)
    return {"running": running, "exit_code": state.get("exit_code"), "nonce": state.get("nonce")}


def files(run: Path) -> Iterator[Path]:
    """The run's plain files but its checkpoints, and nothing hidden; links are not followed."""
    for root, folders, names in os.walk(run):
        folders[:] = sorted(f for f in folders if f[0] != "." and f != folder.CHECKPOINTS)
        for name in sorted(names):
            path = Path(root) / name
            ours = path.parent == run and name in HERE
            if name[0] != "." and not ours and path.is_file() and not path.is_symlink():
                yield path


def send_file(run: Path, path: Path, there: Json | None, out: IO[bytes]) -> None:
    """A file that is new or has changed; of one that grows, the whole lines that are new."""
    content = path.read_bytes()
    name = path.relative_to(run).as_posix()
    if path.suffix in GROWS:
        content = content[: content.rfind(b"\n") + 1]
        offset = there["bytes"] if there else 0
        known = saved.sha256_of_bytes(content[:offset])
        if there and (offset > len(content) or there["sha256"] != known):
            raise UserError("launch.other_file", path=name)
        new = content[offset:]
        if new or there is None:
            frame(out, {"file": name, "offset": offset, **measure(new)}, new)
    elif there is None or there["sha256"] != saved.sha256_of_bytes(content):
        frame(out, {"file": name, "offset": None, **measure(content)}, content)


def send_checkpoint(path: Path, there: Json, out: IO[bytes]) -> None:
    """Every file of a checkpoint, state.json last; nothing if it is pruned at this moment."""
    names = (saved.MODEL, saved.OPTIMIZER, saved.STATE)
    opened: list[IO[bytes]] = []
    try:
        for name in names:
            opened.append((path / name).open("rb"))
        state = opened[-1].read()
        if there.get(path.name) == saved.sha256_of_bytes(state):
            return
        opened[-1].seek(0)
        for name, file in zip(names, opened, strict=True):
            size = os.fstat(file.fileno()).st_size
            frame(out, {"checkpoint": path.name, "file": name, "bytes": size})
            while chunk := file.read(CHUNK):
                out.write(chunk)
    except FileNotFoundError:
        return
    finally:
        for file in opened:
            file.close()


def measure(content: bytes) -> Json:
    return {"bytes": len(content), "sha256": saved.sha256_of_bytes(content)}


def frame(out: IO[bytes], header: Json, content: bytes = b"") -> None:
    out.write(json.dumps(header).encode() + b"\n" + content)


def main(arguments: list[str]) -> int:
    try:
        match arguments:
            case ["start", run, nonce, *options]:
                start(Path(run), nonce, options)
            case ["job", run, nonce, *options]:
                return job(Path(run), nonce, options)
            case ["sync", run]:
                sync(Path(run), json.load(sys.stdin.buffer), sys.stdout.buffer)
            case ["stop", run]:
                stop(Path(run))
            case _:
                return 2
    except UserError as fault:
        print(fault, file=sys.stderr)
        return 2
    except OSError as fault:
        print(folder.disk_fault(fault), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
