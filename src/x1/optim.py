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

# Coefficients (a, b, c) of each round of `orthogonalise`. Each is the odd quintic nearest to 1 on
# the interval that the round before has left, starting from [0.01, 1] (Polar Express, 2505.16932,
# section 3). torch's own five equal rounds cost 5/3 as much and learn no better (docs/ideas.md).
ROUNDS = (
    (8.0934, -23.6204, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)


class Muon(torch.optim.Muon):
    """torch's Muon, but the matrices of one shape are orthogonalised in one batch, and by ROUNDS.

    The same state and, in the same rounds, the same update up to bf16's rounding.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` is not used here."""
        for group in self.param_groups:
            batches: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    batches[p.shape].append(p)
                    if "momentum_buffer" not in self.state[p]:
                        self.state[p]["momentum_buffer"] = torch.zeros_like(p)
            for shape, members in batches.items():
                grads = [p.grad for p in members if p.grad is not None]
                momenta = [self.state[p]["momentum_buffer"] for p in members]
                torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
                ahead = [  # Nesterov's
                    gathered(grad.lerp(momentum, group["momentum"])).bfloat16()
                    for grad, momentum in zip(grads, momenta, strict=True)
                ]
                updates = orthogonalise(torch.stack(ahead))  # (n, *shape)
                torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                for p, update in zip(members, updates, strict=True):
                    p.add_(sharded_like(update, p), alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Roughly U V^T for each U S V^T of a batch (n, rows, columns): Newton-Schulz, in bf16.

    Each round is X <- aX + b(XX^T)X + c(XX^T)^2 X, which maps a singular value s to
    as + bs^3 + cs^5 and leaves the singular vectors alone (2409.20325, section 3). After ROUNDS,
    all that were at least 0.01 of the matrix's norm lie between 0.73 and 1.27.
    """
    rows, columns = matrices.shape[-2:]
    if rows > columns:
        return orthogonalise(matrices.mT).mT
    x = matrices.bfloat16()
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True)).clamp(min=1e-7)  # 1.01: bf16 rounds
    for a, b, c in ROUNDS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


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
            Muon(
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
    if config.weight_dtype == "bf16":
        for optimizer in optimizers:
            optimizer.register_step_post_hook(round_weights)
    return optimizers


@torch.no_grad()
def round_weights(optimizer: Optimizer, *_: Any) -> None:
    """Leave only what bf16 holds of the weights: training without fp32 master weights.

    An update below half a unit in the last of bf16's 8 bits is lost (2010.06192).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.copy_(parameter.bfloat16())


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
