"""Checkpoints as files: where they are, whether every byte holds, and whose they are.

    state.json   names its run, the step and the SHA-256 of each file, and seals its own content

A run is known by its configuration and its plan: `identity` hashes both. So a checkpoint of another
run does not pass for this one's, even at the same step and with every checksum in order. The seal
is no secret; it finds damage and mistakes. What keeps a forger's file harmless is that nothing is
ever unpickled.

Nothing here imports torch: a supervisor and a mirror look after checkpoints too.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from x1 import folder

FORMAT = "x1-checkpoint-2"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums hold: its folder and the content of state.json."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def identity(run: Path) -> str:
    """What a run's checkpoints are sealed with: SHA-256 over config.toml and plan.json."""
    parts = []
    for name in (folder.CONFIG, folder.PLAN):
        path = run / name
        content = path.read_bytes() if path.is_file() else b""
        parts.append(sha256_of_bytes(content))
    return sha256_of_bytes(" ".join(parts).encode())


def sealed(path: Path, run: Path, step: int, state: dict[str, Any]) -> dict[str, Any]:
    """The content of state.json for the two files of tensors that are in `path`."""
    files = {name: sha256_of(path / name) for name in (MODEL, OPTIMIZER)}
    ours = {"format": FORMAT, "run": identity(run), "step": step, "files": files}
    state = {**ours, **{key: value for key, value in state.items() if key not in ours}}
    return {**state, "checksum": digest(state)}


def read(path: Path, run: Path | None = None) -> Checkpoint | None:
    """The checkpoint at `path` if it is whole and this run's own, else None.

    `run` defaults to the run whose folder `path` is in.
    """
    found = _examine(path, run or path.parent.parent)
    return found if isinstance(found, Checkpoint) else None


def fault(path: Path) -> Literal["damaged", "foreign"]:
    """Why `read` refuses what is at `path`: it is not whole, or whole and another run's."""
    found = _examine(path, path.parent.parent)
    return "foreign" if found == "foreign" else "damaged"


def _examine(path: Path, run: Path) -> Checkpoint | Literal["damaged", "foreign"]:
    try:
        if not all((path / name).is_file() for name in (MODEL, OPTIMIZER, STATE)):
            return "damaged"  # a pipe in a file's place would be waited for without end
        raw = (path / STATE).read_bytes()
        record = json.loads(raw)
        state = {key: value for key, value in record.items() if key != "checksum"}
        whole = (
            raw == folder.json_bytes(record)
            and state["format"] == FORMAT
            and record["checksum"] == digest(state)
            and path.name == path_of(run, state["step"]).name
            and all(sha256_of(path / name) == state["files"][name] for name in (MODEL, OPTIMIZER))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "damaged"
    if not whole:
        return "damaged"
    return Checkpoint(path, state) if state["run"] == identity(run) else "foreign"


def hand_over(source: Checkpoint, run: Path) -> Path:
    """Copy a sound checkpoint into another run as its own; returns its path there.

    For a run that begins where another has come to; it appears whole or not at all.
    """
    final = path_of(run, source.step)
    aside = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source.path, aside)
    state = {**source.state, "attempt": 0}  # the other run counted its own
    folder.write_json(aside / STATE, sealed(aside, run, source.step, state))
    for name in (MODEL, OPTIMIZER):
        folder.sync(aside / name)
    folder.sync(aside)
    folder.replace_folder(aside, final)
    return final


def path_of(run: Path, step: int) -> Path:
    return run / folder.CHECKPOINTS / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """Steps of the checkpoint folders there are, oldest first, sound or not."""
    folders = (run / folder.CHECKPOINTS).glob("step-*")
    found = [int(p.name[5:]) for p in folders if p.is_dir() and p.name[5:].isdecimal()]
    return sorted(step for step in found if path_of(run, step).is_dir())


def newest(
    run: Path, valid: Callable[[Checkpoint], bool] | None = None
) -> tuple[Checkpoint | None, list[Path]]:
    """The newest sound checkpoint for which `valid` holds, and the refused ones that are newer.

    Refused are those that are damaged or another run's; `fault` says which.
    """
    refused = []
    for step in reversed(steps(run)):
        checkpoint = read(path_of(run, step))
        if checkpoint is None:
            refused.append(path_of(run, step))
        elif valid is None or valid(checkpoint):
            return checkpoint, refused
    return None, refused


def prune(run: Path, keep: int, protected: set[int]) -> None:
    """Delete all but the newest `keep` checkpoints and the `protected` steps.

    The newest are those written last: by attempt, then by step. After a roll-back the undone
    stretch has higher steps than what is being written, and must not crowd it out.
    """
    for step in sorted(steps(run), key=lambda step: (_attempt(path_of(run, step)), step))[:-keep]:
        if step not in protected:
            path = path_of(run, step)
            gone = path.with_name(f".{path.name}.gone")  # a kill must not leave half of it
            shutil.rmtree(gone, ignore_errors=True)
            path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _attempt(path: Path) -> int:
    """Which attempt wrote the checkpoint at `path`; 0 if it does not say."""
    try:
        return int(json.loads((path / STATE).read_bytes())["attempt"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def clear_unfinished(run: Path) -> None:
    """Remove what a kill in the middle of a write left behind."""
    for path in (run / folder.CHECKPOINTS).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest(record: dict[str, Any]) -> str:
    """SHA-256 of a JSON object, however it is laid out."""
    canonical = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return sha256_of_bytes(canonical.encode())
