"""A run is a folder: its files, how they are written so that a kill never tears them, its lock.

Two kinds of file. Those written whole (`write_atomically`: aside, fsync, rename) are either the
old one or the new one at any moment. Those appended to (`append_line`) may end in a torn line
after a kill; readers leave it out, and the next writer starts on a fresh line.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from x1.config import RunConfig, differences, read_toml, to_toml, validate
from x1.injections import parse_injections
from x1.text import UserError, say

CONFIG = "config.toml"
PLAN = "plan.json"
MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"
LEDGER = "ledger.jsonl"
SAMPLES = "samples.jsonl"
EVALUATION = "evaluation.json"
CHECKPOINTS = "checkpoints"
MODEL = "model"
REPORT = "report.html"
LADDER = "ladder"  # a folder: the rungs that are trained before the run (see `first_ladder`)
PREDICTION = "prediction.json"  # what they predict of it


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError name `path`: a full disk names nothing, and a file aside says little."""
    try:
        yield
    except OSError as fault:
        fault.filename = str(path)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a reader or a kill sees the old file or the new one.

    Raises OSError (disk full, read-only folder) with nothing half-written left behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with naming(path), aside.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace_folder(aside: Path, final: Path) -> None:
    """Rename a finished folder to `final`; one that is there already goes only after that.

    Raises OSError with the old one back in its place. A kill between the two renames leaves it as
    `.NAME.old`, beside the new one.
    """
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    try:
        aside.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise
    sync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """`write_atomically` of one JSON object, keys in the order given."""
    write_atomically(path, json_bytes(record))


def json_bytes(record: Any) -> bytes:
    """The bytes `write_json` writes. Raises ValueError for NaN and infinities."""
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8")


def read_json(path: Path, expected_format: str | None = None) -> dict[str, Any]:
    """One JSON object. Raises UserError when it is missing, damaged or of another format."""
    try:
        record = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError("folder.missing", path=path) from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError("folder.damaged", path=path) from None
    if not isinstance(record, dict) or expected_format not in (None, record.get("format")):
        raise UserError("folder.format", path=path, expected=expected_format)
    return record


def sync(path: Path) -> None:
    """Make a file durable, or the names inside a folder (a rename is not until that is done)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_line(path: Path, record: dict[str, Any], durable: bool = False) -> None:
    """Append one JSON line in a single write; `durable` returns only once it is on the disk.

    Several processes may append to one file: O_APPEND keeps their lines whole.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = json.dumps(record, ensure_ascii=False) + "\n"
        content = (("\n" if torn else "") + line).encode("utf-8")
        with naming(path):
            if os.write(descriptor, content) < len(content):  # what fits is written without a word
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durable:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Every whole JSON line of an append-only file, in order; torn lines are left out."""
    if not path.exists():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if isinstance(record, dict)]


def curve(run: Path, keep_clock: bool = True) -> list[dict[str, Any]]:
    """The metrics as the run ended up: for each step, the lines of its last attempt.

    A line is a training line (has `loss`) or an evaluation line (has `val_loss`). With
    `keep_clock=False`, `attempt` and `clock` are dropped: what is left is the same, byte for
    byte, however often the run was killed.
    """
    last: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in read_lines(run / METRICS):
        key = (line["step"], "val_loss" in line)
        if key not in last or line["attempt"] >= last[key]["attempt"]:
            last[key] = line
    lines = [last[key] for key in sorted(last)]
    if keep_clock:
        return lines
    return [{k: v for k, v in line.items() if k not in ("attempt", "clock")} for line in lines]


def now() -> str:
    """The current time, UTC, ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record_event(run: Path, event: str, **fields: Any) -> None:
    """Append one durable line to events.jsonl: it is on the disk before training goes on."""
    append_line(run / EVENTS, {"event": event, "time": now(), **fields}, durable=True)


def events(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """The run's events in order, all of them or those of the kinds named."""
    return [e for e in read_lines(run / EVENTS) if not kinds or e["event"] in kinds]


def attempt(run: Path) -> int:
    """The latest attempt on record: it grows by one at each start and each roll-back; 0 is none."""
    return max((e["attempt"] for e in events(run, "start", "rollback")), default=0)


def plan_digest(run: Path) -> str | None:
    """SHA-256 of plan.json, which seals its predictions; None when the run has no plan."""
    return _digest(run / PLAN)


def prediction_digest(run: Path) -> str | None:
    """SHA-256 of prediction.json; None when the run climbed no ladder of its own."""
    return _digest(run / PREDICTION)


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def open_run(run: Path) -> RunConfig:
    """The configuration of an existing run. Raises UserError if `run` is not one."""
    if not (run / CONFIG).is_file():
        raise UserError("folder.not_a_run", path=run, file=CONFIG)
    return validate(read_toml(run / CONFIG))


def check_claim(run: Path, config: RunConfig) -> None:
    """Refuse a folder that holds something else, may not be written, or is another run's.

    Raises UserError naming the fields that differ, or the planted fault that is unknown or lies
    beyond the run. To be asked before the data is prepared.
    """
    parse_injections(config.stability.inject, config.train.steps - 1)
    if (run / CONFIG).is_file():
        changed = differences(open_run(run), config)
        if changed:
            raise UserError("folder.other_config", path=run, fields=", ".join(changed))
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError("folder.not_a_run", path=run, file=CONFIG)
    elif not os.access(next(p for p in (run, *run.absolute().parents) if p.exists()), os.W_OK):
        raise UserError("folder.read_only", path=run)


def claim(run: Path, config: RunConfig) -> None:
    """Make `run` the folder of `config`, unless it already is. Raises like `check_claim`."""
    check_claim(run, config)
    if not (run / CONFIG).is_file():
        run.mkdir(parents=True, exist_ok=True)
        write_atomically(run / CONFIG, to_toml(config))


def disk_fault(fault: OSError) -> str:
    """One sentence for a failure of the disk or of a permission."""
    path = fault.filename or "?"
    if fault.errno in (errno.ENOSPC, errno.EDQUOT):
        return say("folder.disk_full", path=path)
    if fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return say("folder.read_only", path=path)
    return say("folder.os_fault", path=path, fault=fault.strerror or fault)


@contextmanager
def locked(run: Path, name: str = "train") -> Iterator[None]:
    """Hold the run's lock `.NAME.lock`; the system releases it however the process ends.

    Raises UserError saying which process holds it, on which machine and since when.
    """
    path = run / f".{name}.lock"
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError("folder.locked", path=run, holder=file.read().strip()) from None
        file.truncate(0)
        file.write(
            f"pid {os.getpid()}, {socket.gethostname()}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
        )
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
