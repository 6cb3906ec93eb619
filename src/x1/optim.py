"""Optimizers and learning-rate schedules.

Muon (torch.optim.Muon) moves every hidden matrix along its orthogonalised momentum; AdamW moves
what is not such a matrix: embedding, head, norm gains. With `match_rms_adamw` Muon's update has
the size of AdamW's (arXiv 2502.16982, section 2.2), so one learning rate serves both.
"""

import torch
from torch import nn
from torch.optim import Optimizer

from x1.config import OptimConfig


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
            torch.optim.Muon(
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
