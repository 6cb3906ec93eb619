"""A second home for a run: its checkpoints and small files, published to an fsspec URI.

    claims/CLAIM.json               one for each start: its number, the run, what it goes on from
    attempts/CLAIM/SHA256           what that start has uploaded; of no account until it is named
    manifests/CLAIM-NUMBER.json     every file of the run with object, size and SHA-256; comes last

CLAIM is `00000004-NONCE`. A reader believes the newest claim's manifests, then the one that claim
went on from, and so on: what an older start publishes after a newer one has claimed is never read,
however late it arrives. That needs no lock and no conditional write, only a store whose listing
shows what has been written, as S3's does. The older start finds the newer claim before its next
manifest and publishes no more.

The supervisor runs this in a thread, not the trainer: the ledger is the supervisor's, and its last
line comes after the trainer has gone; what a killed trainer left is published all the same; and a
slow network never holds up a step. Checkpoints are hard-linked aside while they are uploaded, so
that pruning does not take them away.
"""

import json
import random
import re
import secrets
import shutil
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from x1 import deadman, folder, saved
from x1.store import Store, open_store, reaching
from x1.text import UserError, say

FORMAT = "x1-mirror-1"
RECORD = "mirror.json"  # in the run's folder: which claim is ours
STAGE = ".mirror"  # in the run's folder: checkpoints on their way
# What grows with every step goes along with a checkpoint; the rest is small and goes every minute.
WITH_CHECKPOINTS = (folder.METRICS, folder.SAMPLES)
SMALL = (
    folder.CONFIG, folder.PLAN, folder.MANIFEST, folder.EVENTS, folder.LEDGER, folder.EVALUATION,
    folder.PREDICTION, f"{folder.LADDER}/ladder.toml", f"{folder.LADDER}/points.json",
    deadman.STATE,
)  # fmt: skip
LOOK_EVERY_S = 2.0  # for a new checkpoint
EVERY_S = 60.0  # the ledger is published at least this often
FLUSH_S = 120.0  # what the last upload may take once the trainer has ended
TRIES = 20

CLAIM_NAME = re.compile(r"\d{8}-[0-9a-f]{16}")
MANIFEST_NAME = re.compile(r"(\d{8}-[0-9a-f]{16})-\d{8}")
OBJECT_NAME = re.compile(r"attempts/\d{8}-[0-9a-f]{16}/[0-9a-f]{64}")
CHECKPOINT_FILE = re.compile(
    rf"{folder.CHECKPOINTS}/step-\d{{8}}/({saved.MODEL}|{saved.OPTIMIZER}|{saved.STATE})"
)

Json = dict[str, Any]


class Superseded(UserError):
    """A newer start has claimed the mirror: this one may no longer publish."""


# Who may publish


def claims(store: Store) -> list[str]:
    """The claims made so far, oldest first."""
    found = [Path(name).stem for name in store.names("claims")]
    return [name for name in found if CLAIM_NAME.fullmatch(name)]


def read_claim(store: Store, name: str) -> Json:
    """A claim's content; empty if it is damaged or gone."""
    try:
        record = json.loads(store.get(f"claims/{name}.json"))
    except (ValueError, FileNotFoundError):
        return {}
    return record if isinstance(record, dict) and record.get("format") == FORMAT else {}


def claim(store: Store, identity: str, base: str | None, note: Any = lambda name: None) -> str:
    """Claim the next attempt for this run, going on from the manifest `base`; returns its name.

    Two starts that pick one number at one moment see each other's claim after writing their own,
    the later of them for certain, and who sees another takes a higher number. `note` is told each
    name before it is written.
    """
    for _ in range(TRIES):
        number = 1 + max((int(name[:8]) for name in claims(store)), default=0)
        name = f"{number:08d}-{secrets.token_hex(8)}"
        note(name)
        record = {
            "format": FORMAT, "attempt": number, "run": identity, "base": base,
            "time": folder.now(),
        }  # fmt: skip
        store.put(f"claims/{name}.json", folder.json_bytes(record))
        if not [other for other in claims(store) if int(other[:8]) >= number and other != name]:
            return name
        time.sleep(random.random())
    raise UserError("mirror.contended", uri=store.uri)


def published(store: Store) -> Iterator[tuple[str, Json]]:
    """Manifests that count and are whole, by name and content, newest first."""
    made = claims(store)
    names = [Path(name).stem for name in store.names("manifests")]
    name, limit = (made[-1] if made else None), ""
    while name:
        own = [n for n in names if n.startswith(f"{name}-") and (not limit or n <= limit)]
        for manifest in reversed(own):
            content = _read_manifest(store, manifest)
            if content:
                yield manifest, content
        base = read_claim(store, name).get("base") or ""
        following = MANIFEST_NAME.fullmatch(base)
        # Bases only lead back in time, whatever a stranger has written there.
        name, limit = (following[1], base) if following and following[1] < name else (None, "")


def _read_manifest(store: Store, name: str) -> Json | None:
    try:
        record = json.loads(store.get(f"manifests/{name}.json"))
        checksum = record.pop("checksum")
        files = record["files"]
        whole = (
            record["format"] == FORMAT
            and checksum == saved.digest(record)
            and all(
                (path in (*SMALL, *WITH_CHECKPOINTS) or CHECKPOINT_FILE.fullmatch(path))
                and OBJECT_NAME.fullmatch(entry["object"])
                and len(entry["sha256"]) == 64
                and entry["bytes"] >= 0
                for path, entry in files.items()
            )
        )
    except (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, RecursionError):
        return None
    return record if whole else None


# Publishing


@dataclass
class Mirror:
    """One start's right to publish, and what it has published. A thread of its own works on it."""

    run: Path
    store: Store
    claim: str
    number: int = 0
    uploaded: dict[str, Json] = field(default_factory=dict)  # by SHA-256: known to be there, whole
    checkpoints: dict[str, dict[str, Json]] = field(default_factory=dict)  # by state.json's
    files: dict[str, Json] = field(default_factory=dict)
    superseded: bool = False
    behind: bool = True  # something has not been published, or that is not known
    failing: bool = False
    ending: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None


def begin(run: Path, uri: str) -> Mirror:
    """Claim the next attempt at the mirror of `run` and publish from now on, in the background.

    Raises UserError if the mirror cannot be reached, holds another run, or has been claimed by a
    start that this folder knows nothing of: the run goes on elsewhere, then.
    """
    mirror = take(run, uri)
    mirror.thread = threading.Thread(target=_work, args=(mirror,), daemon=True)
    mirror.thread.start()
    return mirror


def take(run: Path, uri: str) -> Mirror:
    """`begin` without the thread."""
    store = open_store(uri)
    path = run / RECORD
    record = folder.read_json(path, FORMAT) if path.exists() else {}
    ours = {record.get("claim"), record.get("claiming")} if record.get("uri") == uri else set()
    identity = saved.identity(run)
    with reaching(uri):
        made = claims(store)
        if made and made[-1] not in ours:
            other = read_claim(store, made[-1])
            if other.get("run") != identity:
                raise UserError("mirror.other_run", uri=uri)
            raise UserError("mirror.elsewhere", uri=uri, attempt=int(made[-1][:8]),
                            time=other.get("time"))  # fmt: skip
        base, content = next(published(store), (None, {"files": {}}))
        held = made[-1] if made else None

        def note(name: str) -> None:  # a kill between the two writes must not lock us out
            _record(run, uri, claim=held, claiming=name)

        name = claim(store, identity, base, note)
    _record(run, uri, claim=name)
    mirror = Mirror(run, store, name)
    mirror.uploaded = {entry["sha256"]: entry for entry in content["files"].values()}
    return mirror


def _record(run: Path, uri: str, **fields: Any) -> None:
    folder.write_json(run / RECORD, {"format": FORMAT, "uri": uri, **fields})


def _work(mirror: Mirror) -> None:
    """Until told to end: publish when there is a new checkpoint, or a minute has passed."""
    seen: list[int] = []
    due_s = time.monotonic()
    while not (mirror.ending.wait(LOOK_EVERY_S) or mirror.superseded):
        if saved.steps(mirror.run) != seen or time.monotonic() >= due_s:
            seen = saved.steps(mirror.run)
            attempt_publish(mirror)
            due_s = time.monotonic() + EVERY_S


def attempt_publish(mirror: Mirror, everything: bool = False) -> None:
    """`publish`, with every failure said once and left for the next try."""
    try:
        with reaching(mirror.store.uri):
            publish(mirror, everything)
        mirror.failing = False
    except Superseded:
        mirror.superseded = True
    except UserError as fault:
        if not mirror.failing:
            _tell(str(fault))
            _tell(say("mirror.goes_on"))
        mirror.failing = True


def finish(mirror: Mirror, limit_s: float = FLUSH_S) -> None:
    """Publish what is left once the trainer has ended, for at most `limit_s` seconds."""
    mirror.ending.set()
    mirror.behind = True
    mirror.thread = threading.Thread(target=_finish, args=(mirror, mirror.thread), daemon=True)
    mirror.thread.start()
    mirror.thread.join(limit_s)
    if not mirror.thread.is_alive():
        shutil.rmtree(mirror.run / STAGE, ignore_errors=True)


def _finish(mirror: Mirror, before: threading.Thread | None) -> None:
    if before is not None:
        before.join()
    if not mirror.superseded:
        attempt_publish(mirror, everything=True)


def publish(mirror: Mirror, everything: bool = False) -> None:
    """Upload what is new and publish a manifest of all there is; nothing if nothing has changed.

    Raises Superseded when a newer start has claimed, and whatever the store's library raises.
    """
    mirror.behind = True
    _still_ours(mirror)
    files, fresh = _checkpoints(mirror)
    for name in (*WITH_CHECKPOINTS, *SMALL):  # events after checkpoints: they know of every one
        if name in WITH_CHECKPOINTS and not (fresh or everything) and name in mirror.files:
            files[name] = mirror.files[name]
            continue
        content = _snapshot(mirror.run / name)
        if content is not None:
            files[name] = _upload_bytes(mirror, content)
    if files != mirror.files:
        _publish_manifest(mirror, files)
    mirror.behind = False


def _publish_manifest(mirror: Mirror, files: dict[str, Json]) -> None:
    _still_ours(mirror)
    number = mirror.number + 1
    name = f"{mirror.claim}-{number:08d}"
    record: Json = {
        "format": FORMAT,
        "run": saved.identity(mirror.run),
        "time": folder.now(),
        "files": files,
    }
    content = folder.json_bytes({**record, "checksum": saved.digest(record)})
    mirror.store.put(f"manifests/{name}.json", content)
    mirror.number, mirror.files = number, files
    with suppress(Exception):  # what cannot be deleted now is found again the next time
        _clear(mirror)


def _still_ours(mirror: Mirror) -> None:
    """Raises Superseded after a newer claim, FileNotFoundError where even ours is gone."""
    made = claims(mirror.store)
    if made and made[-1] > mirror.claim:
        raise Superseded("guard.superseded")
    if mirror.claim not in made:
        raise FileNotFoundError(mirror.claim)


def _checkpoints(mirror: Mirror) -> tuple[dict[str, Json], bool]:
    """Every sound checkpoint's files, uploaded; and whether one of them is new."""
    files: dict[str, Json] = {}
    fresh = False
    for step in saved.steps(mirror.run):
        source = saved.path_of(mirror.run, step)
        try:
            mark = saved.sha256_of(source / saved.STATE)
            if mark not in mirror.checkpoints:
                mirror.checkpoints[mark] = _upload_checkpoint(mirror, source)
                fresh = True
            files |= mirror.checkpoints[mark]
        except (FileNotFoundError, NotADirectoryError):
            continue  # pruned meanwhile, or damaged: then it is not whole
    return files, fresh


def _upload_checkpoint(mirror: Mirror, source: Path) -> dict[str, Json]:
    """Upload a checkpoint if it is sound. Raises FileNotFoundError if it is not, or is gone."""
    staged = mirror.run / STAGE / source.name
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    names = (saved.MODEL, saved.OPTIMIZER, saved.STATE)
    try:
        for name in names:
            try:
                (staged / name).hardlink_to(source / name)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without links
                shutil.copyfile(source / name, staged / name)
        if saved.read(staged, mirror.run) is None:
            raise FileNotFoundError(source)
        return {
            f"{folder.CHECKPOINTS}/{source.name}/{name}": _upload_file(mirror, staged / name)
            for name in names
        }
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _upload_file(mirror: Mirror, path: Path) -> Json:
    checksum = saved.sha256_of(path)
    if checksum not in mirror.uploaded:
        name = f"attempts/{mirror.claim}/{checksum}"
        with reaching(mirror.store.uri):  # a FileNotFoundError of the store is none of ours
            mirror.store.put_file(path, name)
        size = path.stat().st_size
        mirror.uploaded[checksum] = {"object": name, "bytes": size, "sha256": checksum}
    return mirror.uploaded[checksum]


def _upload_bytes(mirror: Mirror, content: bytes) -> Json:
    checksum = saved.sha256_of_bytes(content)
    if checksum not in mirror.uploaded:
        name = f"attempts/{mirror.claim}/{checksum}"
        mirror.store.put(name, content)
        mirror.uploaded[checksum] = {"object": name, "bytes": len(content), "sha256": checksum}
    return mirror.uploaded[checksum]


def _snapshot(path: Path) -> bytes | None:
    """A file as it is now; of one that is appended to, the whole lines."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content[: content.rfind(b"\n") + 1] if path.suffix == ".jsonl" else content


def _clear(mirror: Mirror) -> None:
    """Delete what neither of the two newest manifests names. Newer starts' objects are not ours."""
    if mirror.number == 1:
        return  # the one this start went on from is still the second newest
    oldest = f"{mirror.claim}-{mirror.number - 1:08d}"
    before = _read_manifest(mirror.store, oldest)
    if before is None:
        return
    named = {entry["object"] for entry in mirror.files.values()}
    kept = named | {entry["object"] for entry in before["files"].values()}
    for name in mirror.store.names("manifests"):
        if Path(name).stem < oldest:
            mirror.store.delete(name)
    for name in mirror.store.names("attempts"):
        if name not in kept and name.split("/")[1] <= mirror.claim:
            mirror.store.delete(name)
    mirror.uploaded = {k: e for k, e in mirror.uploaded.items() if e["object"] in named}
    mirror.checkpoints = {
        mark: files
        for mark, files in mirror.checkpoints.items()
        if {entry["object"] for entry in files.values()} <= named
    }


def report(mirror: Mirror) -> None:
    """Whether the mirror has everything."""
    key = "mirror.behind" if mirror.behind else "mirror.done"
    if not mirror.superseded:
        _tell(say(key, uri=mirror.store.uri, number=mirror.number, run=mirror.run))


def _tell(sentence: str) -> None:
    with suppress(OSError, ValueError):
        print(sentence, file=sys.stderr, flush=True)


# A fresh machine


def restore(uri: str, run: Path, allow_commands: bool = False) -> None:
    """Make the folder `run` from the mirror at `uri`, claiming the run for this machine.

    From the claim on the machine it ran on may no longer publish, and stops. Raises UserError if
    there is no run there, none of its manifests is whole, `run` is not a new or empty folder, or
    the configuration there names commands, which a stranger may have written: they are executed
    only if you `allow_commands`.
    """
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UserError("mirror.not_empty", path=run)
    store = open_store(uri)
    aside = run.with_name(f".{run.name}.tmp")
    with reaching(uri):
        found = list(published(store))
        if not found:
            raise UserError("mirror.empty", uri=uri)
        base, content = found[0]
        named = commands_of(store, content)
        if named and not allow_commands:
            raise UserError("mirror.commands", uri=uri, commands="; ".join(named))
        name = claim(store, content["run"], base)
    for _, content in found:
        if commands_of(store, content) != named:
            continue
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        try:
            with reaching(uri):
                whole = download(store, content, aside)
            if whole:
                _record(aside, uri, claim=name)
                if run.exists():
                    run.rmdir()
                aside.rename(run)
                folder.sync(run.parent)
                step = max(saved.steps(run), default=0)
                _tell(say("mirror.restored", uri=uri, run=run, step=step))
                return
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        _tell(say("mirror.damaged", uri=uri, time=content["time"]))
    raise UserError("mirror.none_whole", uri=uri)


def commands_of(store: Store, content: Json) -> list[str]:
    """The commands that the configuration of a manifest would have us execute."""
    try:
        raw = tomllib.loads(store.get(content["files"][folder.CONFIG]["object"]).decode())
    except (KeyError, FileNotFoundError, ValueError):
        return []  # damaged: `_download` will say so
    money = raw.get("money", {})
    source, stop = str(money.get("price_source", "")), str(money.get("stop_command", ""))
    read = source.removeprefix("command:") if source.startswith("command:") else ""
    return [command for command in (read, stop) if command]


def download(store: Store, content: Json, aside: Path) -> bool:
    """Fetch every file of a manifest; whether each is what was published, and all are one run's."""
    with Progress(*Progress.get_default_columns(), transient=True) as bar:
        task = bar.add_task("", total=sum(e["bytes"] for e in content["files"].values()))
        for name, entry in content["files"].items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                store.get_file(entry["object"], path)
            except FileNotFoundError:
                return False
            if not path.is_file() or saved.sha256_of(path) != entry["sha256"]:
                return False
            folder.sync(path)
            bar.advance(task, entry["bytes"])
    for step in saved.steps(aside):
        folder.sync(saved.path_of(aside, step))
        if saved.read(saved.path_of(aside, step)) is None:
            return False
    return (aside / folder.CONFIG).is_file() and saved.identity(aside) == content["run"]
