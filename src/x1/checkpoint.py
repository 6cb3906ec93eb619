"""Saved state: atomic, checksummed, never unpickled.

`checkpoints/step-00000500/` holds the state after 500 updates:

    model.safetensors      every parameter, fp32, whole (gathered when the run is sharded)
    optimizer.safetensors  every optimizer tensor, "PARAMETER|FIELD"
    state.json             step, skip list, detector history, RNG, SHA-256 of each file and its own

The folder is written aside, synced and renamed, so it is there whole or not at all. Reading
checks every byte before anything is loaded; a damaged one is reported and the one before used.
"""

import base64
import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from x1 import folder
from x1.ranks import gathered, sharded_like
from x1.text import UserError

FORMAT = "x1-checkpoint-1"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose checksums hold: its folder and the content of state.json."""

    path: Path
    state: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.state["step"])


def whole(tensor: Tensor) -> Tensor:
    """A contiguous CPU copy of a tensor, gathered from all ranks if it is sharded."""
    return gathered(tensor).detach().to("cpu", copy=True).contiguous()


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter by name, whole. A collective call when the model is sharded."""
    return {name: whole(parameter) for name, parameter in model.named_parameters()}


def optimizer_tensors(model: nn.Module, optimizers: list[Optimizer]) -> dict[str, Tensor]:
    """Every optimizer tensor as "PARAMETER|FIELD", whole. Collective when sharded."""
    return {
        f"{name}|{field}": whole(torch.as_tensor(value))
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def restore(run: Path, step: int, model: nn.Module, optimizers: list[Optimizer]) -> None:
    """Put checkpoint `step` into a model, its optimizers (sharded or not) and torch's RNG.

    Without optimizers, only the weights are read. Raises UserError if its checksums do not hold or
    a file is of another kind: a damaged state is never loaded.
    """
    found = read(path_of(run, step))
    if found is None:
        raise UserError("train.damaged", path=path_of(run, step))
    try:
        weights = load_file(found.path / MODEL)
        moments = load_file(found.path / OPTIMIZER) if optimizers else {}
    except SafetensorError:
        raise UserError("train.damaged", path=found.path) from None
    set_weights(model, weights.items())
    if not optimizers:
        return
    owner = {id(p): o for o in optimizers for group in o.param_groups for p in group["params"]}
    forget(optimizers)
    for key, value in moments.items():
        name, field = key.split("|")
        parameter = model.get_parameter(name)
        # AdamW counts its steps in a scalar per parameter; all else has the parameter's shape.
        placed = value.to(parameter.device) if value.ndim == 0 else sharded_like(value, parameter)
        owner[id(parameter)].state[parameter][field] = placed
    rng = base64.b64decode(found.state["torch_rng"])
    torch.set_rng_state(torch.frombuffer(bytearray(rng), dtype=torch.uint8))


@torch.no_grad()
def set_weights(model: nn.Module, values: Iterable[tuple[str, Tensor]]) -> None:
    """Copy whole tensors into the parameters of those names, sharded or not."""
    for name, value in values:
        parameter = model.get_parameter(name)
        parameter.copy_(sharded_like(value, parameter))


def forget(optimizers: list[Optimizer]) -> None:
    """Back to the state before the first step: no moments, no counters."""
    for optimizer in optimizers:
        optimizer.state.clear()


def write(
    run: Path,
    step: int,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    state: dict[str, Any],
) -> Path:
    """Write `checkpoints/step-N/` so that it appears whole or not at all; returns its path.

    Raises OSError (disk full) with the earlier checkpoints untouched and nothing left behind.
    """
    final = path_of(run, step)
    aside = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        save_tensors(weights, aside / MODEL, {"format": "pt"})
        save_tensors(moments, aside / OPTIMIZER)
        state = {
            "format": FORMAT,
            "step": step,
            **state,
            "torch_rng": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
            "files": {name: _sha256(aside / name) for name in (MODEL, OPTIMIZER)},
        }
        folder.write_json(aside / STATE, {**state, "checksum": _digest(state)})
        for name in (MODEL, OPTIMIZER):
            folder.sync(aside / name)
        folder.sync(aside)
        folder.replace_folder(aside, final)  # there may be one: the same step, an earlier attempt
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return final


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file. Raises OSError where the library has its own kind (a full disk)."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as fault:
        number = re.search(r"os error (\d+)", str(fault))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, str(fault), str(path)) from None


def read(path: Path) -> Checkpoint | None:
    """The checkpoint at `path` if every checksum holds, else None."""
    try:
        state = json.loads((path / STATE).read_text("utf-8"))
        checksum = state.pop("checksum")
        sound = (
            state["format"] == FORMAT
            and checksum == _digest(state)
            and path.name == path_of(path, state["step"]).name
            and all(_sha256(path / name) == state["files"][name] for name in (MODEL, OPTIMIZER))
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return None
    return Checkpoint(path, state) if sound else None


def path_of(run: Path, step: int) -> Path:
    return run / folder.CHECKPOINTS / f"step-{step:08d}"


def steps(run: Path) -> list[int]:
    """Steps of the checkpoint folders there are, oldest first, sound or not."""
    folders = (run / folder.CHECKPOINTS).glob("step-*")
    return sorted(int(p.name[5:]) for p in folders if p.is_dir() and p.name[5:].isdecimal())


def newest(
    run: Path, valid: Callable[[Checkpoint], bool] | None = None
) -> tuple[Checkpoint | None, list[Path]]:
    """The newest sound checkpoint for which `valid` holds, and the damaged ones that are newer."""
    damaged = []
    for step in reversed(steps(run)):
        checkpoint = read(path_of(run, step))
        if checkpoint is None:
            damaged.append(path_of(run, step))
        elif valid is None or valid(checkpoint):
            return checkpoint, damaged
    return None, damaged


def prune(run: Path, keep: int, protected: set[int]) -> None:
    """Delete all but the newest `keep` checkpoints and the `protected` steps."""
    for step in steps(run)[:-keep]:
        if step not in protected:
            shutil.rmtree(path_of(run, step), ignore_errors=True)


def clear_unfinished(run: Path) -> None:
    """Remove what a kill in the middle of `write` left behind."""
    for path in (run / folder.CHECKPOINTS).glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(state: dict[str, Any]) -> str:
    canonical = json.dumps(state, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
