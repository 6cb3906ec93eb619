"""One batch seen from inside: what every layer does with it, and what every token costs.

All of it is read off the model that trains, by one more forward pass without gradients, so that
looking changes nothing. B sequences, T tokens, C = d_model, H heads, D = head_dim.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x1.model import Block, Transformer, rotary

Json = dict[str, Any]


class BlockStats:
    """One block over all sequences seen so far: its output, and its attention logits."""

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.squares = 0.0
        self.numbers = 0
        self.largest = 0.0
        self.logit = -math.inf
        self.queries: Tensor | None = None

    def output(self, module: nn.Module, arguments: Any, x: Tensor) -> None:
        """A hook of the block: x is (1, T, C)."""
        x = x.float()
        self.squares += float(x.square().sum())
        self.numbers += x.numel()
        self.largest = _larger(self.largest, float(x.abs().max()))

    def heads(self, module: nn.Module, arguments: Any, x: Tensor) -> None:
        """A hook of what makes queries and then keys, each (1, T, H, D) and not rotated yet.

        From both come the logits q k / sqrt(D); attention uses those that look back.
        """
        T, D = x.shape[1], x.shape[3]
        cos, sin = self.model.cos[:T].to(x.dtype), self.model.sin[:T].to(x.dtype)
        x = rotary(x.transpose(1, 2), cos, sin).float()  # (1, H, T, D)
        if self.queries is None:
            self.queries = x
            return
        products = (self.queries @ x.mT) * D**-0.5  # (1, H, T, T)
        self.queries = None
        future = torch.ones(T, T, dtype=torch.bool, device=x.device).triu(1)
        self.logit = _larger(self.logit, float(products.masked_fill(future, -math.inf).max()))

    def result(self) -> Json:
        return {
            "activation_rms": math.sqrt(self.squares / self.numbers),
            "activation_max": self.largest,
            "attention_logit_max": self.logit,
        }


def _larger(a: float, b: float) -> float:
    """The larger of two numbers; NaN if either is, which `max` may forget."""
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


@torch.no_grad()
def forward_stats(model: Transformer, ids: Tensor) -> tuple[list[Json], Tensor]:
    """What each block does with the batch `ids` (B, T + 1), and each target's loss (B, T), in nats.

    Of a block: root mean square and largest magnitude of its output, and the largest attention
    logit. One sequence at a time: the logits of all would be (B, H, T, T).
    """
    with watched(model) as blocks:
        losses = [
            F.cross_entropy(model.forward(row[None, :-1])[0].float(), row[1:], reduction="none")
            for row in ids
        ]
    return [block.result() for block in blocks], torch.stack(losses).cpu()


@contextmanager
def watched(model: Transformer) -> Iterator[list[BlockStats]]:
    """The statistics of each block, taken whenever the model is called while this is open."""
    handles, seen = [], []
    for block in model.layers:
        assert isinstance(block, Block)
        stats, attention = BlockStats(model), block.self_attn
        seen.append(stats)
        handles.append(block.register_forward_hook(stats.output))
        # Without QK-norm both are one and the same module that does nothing.
        for norm in dict.fromkeys((attention.q_norm, attention.k_norm)):
            handles.append(norm.register_forward_hook(stats.heads))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def gradient_norms(model: nn.Module) -> dict[str, float]:
    """The L2 norm of each parameter's gradient, by its name."""
    return {
        name: float(parameter.grad.float().norm())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def total_norm(norms: dict[str, float], prefix: str) -> float:
    """The L2 norm of all gradients together whose parameter's name begins with `prefix`."""
    return math.sqrt(sum(norm**2 for name, norm in norms.items() if name.startswith(prefix)))


@torch.no_grad()
def update_ratios(model: nn.Module, update: Callable[[], None]) -> dict[str, float]:
    """|W' - W| / |W| of each matrix, for the `update` that turns W into W'; NaN where W is zero."""
    before = {n: p.float().clone() for n, p in model.named_parameters() if p.ndim == 2}
    update()
    ratios = {}
    for name, old in before.items():
        size = float(old.norm())
        moved = float((model.get_parameter(name).float() - old).norm())
        ratios[name] = moved / size if size else math.nan
    return ratios
