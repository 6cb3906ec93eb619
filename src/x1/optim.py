"""Optimizers and learning-rate schedules.

Muon moves every hidden matrix along its orthogonalised momentum; AdamW moves what is not such a
matrix: embedding, head, norm gains. With `match_rms_adamw` Muon's update has the size of AdamW's
(arXiv 2502.16982, section 2.2), so one learning rate serves both.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from x1.config import OptimConfig
from x1.ranks import gathered, sharded_like


class BatchedMuon(torch.optim.Muon):
    """torch's Muon, the matrices of one shape orthogonalised in one batch.

    Same arguments, same state, same update up to bf16's rounding. At widths of a few hundred the
    small products one by one, not the arithmetic, are what Muon costs (docs/measured).
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` is not used here."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            grads = [p.grad for p in moved]
            for p in moved:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum_buffer"] for p in moved]
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, momenta, group["momentum"])  # Nesterov's look-ahead

            # Wide and tall matrices of the same two sides share a batch: those are transposed.
            batches: dict[tuple[int, int], list[int]] = defaultdict(list)
            for i, p in enumerate(moved):
                batches[min(p.shape), max(p.shape)].append(i)
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            for (_, longer), members in batches.items():
                wide = torch.stack([_wide(gathered(ahead[i])) for i in members])  # (n, short, long)
                rate = group["lr"] * 0.2 * longer**0.5
                for i, update in zip(members, orthogonalise(wide), strict=True):
                    p = moved[i]
                    turned = update if p.shape[0] <= p.shape[1] else update.mT
                    p.add_(sharded_like(turned, p), alpha=-rate)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Roughly U V^T for each U S V^T of a batch (n, short, long), by Newton-Schulz in bf16.

    Five rounds of X <- aX + b(XX^T)X + c(XX^T)^2 X bring all but tiny singular values to 0.68 to
    1.14 (Jordan et al. 2024, "Muon", with their a, b, c; 2502.16982, section 2.1).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _wide(matrix: Tensor) -> Tensor:
    return matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is a matrix inside a block: the ones Muon moves and decay shrinks."""
    return parameter.ndim == 2 and name.endswith("_proj.weight")


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """One or two optimizers over all parameters of `model`; weight decay on matrices only."""
    matrices = [p for name, p in model.named_parameters() if is_hidden_matrix(name, p)]
    others = [p for name, p in model.named_parameters() if not is_hidden_matrix(name, p)]
    groups = [{"params": others, "weight_decay": 0.0}]
    optimizers: list[Optimizer] = []
    if config.name == "muon":
        optimizers.append(
            BatchedMuon(
                matrices,
                lr=config.lr,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    else:
        groups.append({"params": matrices, "weight_decay": config.weight_decay})
    betas = (config.beta1, config.beta2)
    optimizers.append(
        torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)
    )
    return optimizers


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of the update that takes the model from `step` to `step + 1`.

    linear: warm-up, then a straight line to zero at `steps` (arXiv 2502.15938).
    wsd: warm-up, constant, then 1 - sqrt over the last `cooldown_fraction` (2405.18392, sec. 3).
    constant: warm-up, then constant.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "linear":
        decay = min(1.0, (steps - step) / max(1, steps - config.warmup_steps))
    elif config.schedule == "wsd":
        cooldown = config.cooldown_fraction * steps
        elapsed = step - (steps - cooldown)
        decay = 1.0 if elapsed <= 0 else 1.0 - (elapsed / cooldown) ** 0.5
    else:
        decay = 1.0
    return config.lr * warmup * decay
