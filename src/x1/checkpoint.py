"""Saved state: atomic, checksummed, never unpickled.

`checkpoints/step-00000500/` holds the state after 500 updates:

    model.safetensors      every parameter, fp32, whole (gathered when the run is sharded)
    optimizer.safetensors  every optimizer tensor, "PARAMETER|FIELD"
    state.json             run, step, skip list, detector history, RNG, checksums (see `saved`)

The folder is written aside, synced and renamed, so it is there whole or not at all. Reading
checks every byte before anything is loaded; a damaged one is reported and the one before used.
"""

import base64
import errno
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from x1 import folder
from x1.ranks import gathered, sharded_like
from x1.saved import (
    MODEL,
    OPTIMIZER,
    STATE,
    Checkpoint,
    clear_unfinished,
    fault,
    hand_over,
    newest,
    path_of,
    prune,
    read,
    sealed,
    steps,
)
from x1.text import UserError

__all__ = [
    "MODEL", "OPTIMIZER", "STATE", "Checkpoint", "clear_unfinished", "fault", "hand_over",
    "newest", "path_of", "prune", "read", "steps",
]  # fmt: skip

FIELDS = {"step", "exp_avg", "exp_avg_sq", "momentum_buffer"}  # what AdamW and Muon remember


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

    Without optimizers, only the weights are read. Raises UserError if its checksums do not hold,
    it is another run's, or its tensors are not this model's: nothing has been loaded then.
    """
    path = path_of(run, step)
    found = read(path)
    if found is None:
        raise refusal(path)
    try:
        weights = load_file(found.path / MODEL)
        moments = load_file(found.path / OPTIMIZER) if optimizers else {}
        rng = _rng_state(found.state["torch_rng"])
    except (SafetensorError, KeyError, TypeError, ValueError):
        raise UserError("train.damaged", path=path) from None
    if not _fits(model, optimizers, weights, moments) or rng.shape != torch.get_rng_state().shape:
        raise UserError("train.damaged", path=path)
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
    torch.set_rng_state(rng)


def refusal(path: Path) -> UserError:
    """Why the checkpoint at `path` is not used, as a sentence."""
    return UserError("train.foreign" if fault(path) == "foreign" else "train.damaged", path=path)


def _rng_state(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _fits(
    model: nn.Module,
    optimizers: list[Optimizer],
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
) -> bool:
    """Whether these tensors are the model's and its optimizers', by name, field and shape."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    if {name: tensor.shape for name, tensor in weights.items()} != shapes:
        return False
    fields: dict[str, set[str]] = {name: set() for name in shapes}
    for key, value in moments.items():
        name, _, field = key.partition("|")
        if field not in FIELDS or value.shape not in ((), shapes.get(name)):
            return False
        fields.setdefault(name, set()).add(field)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        owned = [p for group in optimizer.param_groups for p in group["params"]]
        if len({frozenset(fields[names[id(p)]]) for p in owned}) > 1:  # one lacks what others have
            return False
    return fields.keys() == shapes.keys()


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
        rng = base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode()
        folder.write_json(aside / STATE, sealed(aside, run, step, {**state, "torch_rng": rng}))
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
