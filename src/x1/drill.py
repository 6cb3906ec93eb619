"""A run of seconds, kept in memory: lab 04, its grader and its benchmark make it explode.

The package's own model, optimizers, schedule and planted faults, on a Markov chain whose entropy
is known exactly. Saving, going back and choosing the next batch are left to the caller, because
in the lab they are the exercise.
"""

import copy
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from x1 import stability
from x1.config import RunConfig, build
from x1.model import Attention, Transformer, initialise, rotary
from x1.optim import build_optimizers, learning_rate
from x1.train import forward_backward

VOCABULARY = 64
SHARPNESS = 2.0  # std of the chain's logits

SETTINGS: dict[str, Any] = {
    "model": {
        "vocab_size": VOCABULARY,
        "n_layers": 1,
        "n_heads": 4,
        "d_model": 64,
        "d_ff": 192,
        "context": 16,
        "tied": False,
        "embedding_std": 0.05,
    },
    "optim": {"name": "adamw", "lr": 0.03, "warmup_steps": 20, "schedule": "constant"},
    "train": {"steps": 120, "batch_sequences": 8, "threads": 1},
    "stability": {"policy": "off"},
    "sample": {"milestones": ()},
}  # 62 thousand parameters
ONSET = 70  # the batch at which a point trigger begins
SMOOTHED = 8  # steps a mean of the loss is taken over

Settings = dict[str, Any]  # {"optim.lr": 0.1}: fields as in `x1 train --set`


@dataclass(frozen=True)
class Trigger:
    """A way to make the run explode: the settings with it, and those of the run without it."""

    settings: Settings
    without: Settings


LONG_MEMORY: Settings = {"optim.beta2": 0.999}
HIGH_LR: Settings = {"optim.lr": 0.2, "optim.warmup_steps": 120, "train.steps": 160}
FAST: Settings = {"optim.lr": 0.1}

TRIGGERS = {
    "gradient-x1e4": Trigger(
        {**LONG_MEMORY, "stability.inject": (f"gradient-x1e4@{ONSET}",)}, LONG_MEMORY
    ),
    "lr-x100": Trigger({"stability.inject": (f"lr-x100@{ONSET}",)}, {}),
    "constant-batch": Trigger({"stability.inject": (f"constant-batch@{ONSET}",)}, {}),
    "no-qk-norm": Trigger({**HIGH_LR, "model.qk_norm": False}, HIGH_LR),
    "no-warm-up": Trigger(
        {**FAST, **LONG_MEMORY, "optim.warmup_steps": 0}, {**FAST, **LONG_MEMORY}
    ),
}  # the last two are faults of the configuration: they have no onset


def configured(changes: Settings | None = None, seed: int = 0) -> RunConfig:
    """The drill's configuration with some fields changed; `seed` is that of data and weights.

    Raises UserError as `config.build`.
    """
    changes = {"train.seed": seed, "data.seed": seed, **(changes or {})}
    sections = copy.deepcopy(SETTINGS)
    for name, value in changes.items():
        section, _, key = name.partition(".")
        sections.setdefault(section, {})[key] = value
    return build(**sections)


@dataclass(frozen=True)
class Line:
    """One step: the loss (nats) and the gradient norm, before clipping, of the weights it met.

    `attention_logit` is the largest one of that batch, over layers and heads.
    """

    step: int
    data_index: int
    loss: float
    grad_norm: float
    attention_logit: float


@functools.cache
def chain(seed: int) -> np.ndarray:
    """Transition probabilities (V, V) of the Markov chain of this seed."""
    logits = np.random.default_rng([seed, 1]).normal(0, SHARPNESS, (VOCABULARY, VOCABULARY))
    chances = np.exp(logits)
    return chances / chances.sum(axis=1, keepdims=True)


def floor_nats(seed: int) -> float:
    """The chain's entropy rate, which no model's expected loss can pass: nats per token."""
    chances = chain(seed)
    stay = np.linalg.matrix_power(chances, 64)[0]  # the stationary distribution
    return float(-(stay[:, None] * chances * np.log(chances)).sum())


def batch(config: RunConfig, data_index: int) -> Tensor:
    """Token ids (B, T + 1) of batch `data_index`: a pure function of the seed and the index."""
    rows, length = config.train.batch_sequences, config.model.context + 1
    rng = np.random.default_rng([config.data.seed, 2, data_index])
    edges = chain(config.data.seed).cumsum(axis=1)
    edges[:, -1] = 1.0
    draws = rng.random((rows, length))
    ids = np.empty((rows, length), dtype=np.int64)
    ids[:, 0] = rng.integers(VOCABULARY, size=rows)
    for place in range(1, length):
        ids[:, place] = (edges[ids[:, place - 1]] < draws[:, place, None]).sum(axis=1)
    return torch.from_numpy(ids)


@dataclass
class Bench:
    """A model in training. `step` trains on the batch it is told to; nothing guards it."""

    config: RunConfig
    model: Transformer = field(init=False)
    optimizers: list[torch.optim.Optimizer] = field(init=False)

    def __post_init__(self) -> None:
        self.model = Transformer(self.config.model)
        initialise(self.model, self.config.train.seed)
        self.optimizers = build_optimizers(self.model, self.config.optim)
        last = 10 * self.config.train.steps  # a batch may come late, after others were skipped
        self.planted = stability.parse_injections(self.config.stability.inject, last)

    def step(self, step: int, data_index: int) -> Line:
        """One update, faults planted at this batch included; what was measured before it."""
        optim = self.config.optim
        faults = stability.active(self.planted, data_index)
        ids = stability.tamper_batch(faults, batch(self.config, data_index))
        with attention_logits(self.model) as logits:
            loss = forward_backward(self.model, ids, len(ids), optim.z_loss)
        stability.tamper_gradient(faults, self.model)
        # Clipped like any other: here the reader asks what clipping is good for.
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip or math.inf)
        lr = stability.tamper_lr(faults, learning_rate(optim, step, self.config.train.steps))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        return Line(step, data_index, float(loss), float(norm), max(logits))

    def save(self) -> dict[str, Any]:
        """Weights and moments as they are now."""
        state = [self.model.state_dict(), *(each.state_dict() for each in self.optimizers)]
        return {"state": copy.deepcopy(state)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Back to what `save` returned, which stays as it is."""
        model, *optimizers = copy.deepcopy(saved["state"])
        self.model.load_state_dict(model)
        for optimizer, state in zip(self.optimizers, optimizers, strict=True):
            optimizer.load_state_dict(state)


def curve(config: RunConfig) -> list[Line]:
    """A whole run that nobody watches: batch s at step s, whatever happens."""
    bench = Bench(config)
    return [bench.step(step, step) for step in range(config.train.steps)]


def end_loss(losses: Sequence[float]) -> float:
    """Where a run arrived: the mean of its last 20 losses."""
    return sum(losses[-20:]) / len(losses[-20:])


def excess(losses: Sequence[float], healthy: Sequence[float]) -> float:
    """How far above a healthy run on the same batches the loss got, in nats: the largest mean of
    8 steps. Infinite as soon as a loss is not finite.
    """
    above = np.asarray(losses) - np.asarray(healthy)
    if not np.isfinite(above).all():
        return math.inf
    return float(np.convolve(above, np.full(SMOOTHED, 1 / SMOOTHED), "valid").max())


@contextmanager
def attention_logits(model: Transformer) -> Iterator[list[float]]:
    """The largest attention logit of each block, appended as the model runs forward.

    A query may meet later keys too here: over random data their logits are no different.
    """
    found: list[float] = []

    def heads(module: nn.Module, arguments: Any, x: Tensor) -> None:
        x = rotary(x.detach().transpose(1, 2), model.cos[: x.shape[1]], model.sin[: x.shape[1]])
        queries.append(x)
        if len(queries) == 2:
            found.append(float((queries.pop(0) @ queries.pop().mT).max()) * x.shape[-1] ** -0.5)

    queries: list[Tensor] = []
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    # Without QK-norm both are one and the same module, which does nothing.
    norms = [norm for a in attentions for norm in dict.fromkeys((a.q_norm, a.k_norm))]
    hooks = [norm.register_forward_hook(heads) for norm in norms]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
