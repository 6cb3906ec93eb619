"""One process or many under torchrun: who I am, what device is mine, what all of us agree on.

FSDP and sharded tensors are imported only where there are ranks: that takes a second and 40 MB.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from x1.config import TrainConfig
from x1.model import Transformer
from x1.text import UserError

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Ranks:
    """This process among `world` of them; `first` is the one that writes files."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


def device_of(config: TrainConfig, local_rank: int = 0) -> torch.device:
    """The device of one rank. Raises UserError if a GPU is asked for and there is none."""
    if config.device == "cuda" and not torch.cuda.is_available():
        raise UserError("train.no_gpu")
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


@contextmanager
def joined(config: TrainConfig) -> Iterator[Ranks]:
    """The process group torchrun set up, or one process alone.

    Leaves through a barrier: without it a rank that ends first can abort the others (gloo).
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    rank, local = int(os.environ.get("RANK", 0)), int(os.environ.get("LOCAL_RANK", 0))
    device = device_of(config, local)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(rank, world, device)
        dist.barrier()
    finally:
        dist.destroy_process_group()


def spread_over(ranks: Ranks, model: Transformer, parallel: str) -> nn.Module:
    """The module whose call trains on all ranks: the model itself when there is one."""
    if ranks.world == 1:
        return model
    if parallel == "ddp":
        return DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard

    for block in model.layers:
        fully_shard(block)
    fully_shard(model)  # parameters become DTensors in place, under the same names
    return model


def hold_gradients(module: nn.Module, hold: bool) -> None:
    """Whether the next backward keeps its gradients to this rank (all but the last micro-batch)."""
    if isinstance(module, DistributedDataParallel):
        module.require_backward_grad_sync = not hold
    elif is_fsdp(module):
        module.set_requires_gradient_sync(not hold)


def reshard(module: nn.Module) -> None:
    """Make the registered parameters the sharded ones that the optimizers know.

    To be called after a forward pass without a backward one (an evaluation, a probe): FSDP's root
    still holds whole parameters under the same names, and would train on with their old values.
    """
    if is_fsdp(module):
        module.reshard()


def average(values: Tensor, ranks: Ranks) -> list[float]:
    """`values` (n,) averaged over all ranks and read by the host: a step's one synchronisation."""
    if ranks.world > 1:
        dist.all_reduce(values)
        values = values / ranks.world
    return [float(value) for value in values.tolist()]


def from_first(value: Any, ranks: Ranks) -> Any:
    """Rank 0's JSON value on every rank (sent as bytes: torch's own object broadcast pickles)."""
    if ranks.world == 1:
        return value
    encoded = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    size = torch.tensor([len(encoded)], device=ranks.device)
    dist.broadcast(size, 0)
    content = torch.empty(int(size), dtype=torch.uint8, device=ranks.device)
    if ranks.first:
        content.copy_(encoded)
    dist.broadcast(content, 0)
    return json.loads(bytes(content.cpu().tolist()))


def is_fsdp(module: nn.Module) -> "TypeGuard[FSDPModule]":
    if not dist.is_initialized():
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)


def is_sharded(tensor: Tensor) -> "TypeGuard[DTensor]":
    if not dist.is_initialized():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. A collective call when it is."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def sharded_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor that every rank has, laid out as `parameter` is: each keeps its own part."""
    tensor = tensor.to(parameter.device)
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(tensor.contiguous(), mesh, placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor that may be sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor
