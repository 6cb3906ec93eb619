"""Tokens per second by two terms: the time of the matmuls and the time of the memory traffic.

    step time = matmul FLOPs / (peak · e_matmul) + bytes moved / (bandwidth · e_memory)

MFU alone does not travel: a narrow model is partly bound by memory, and GPUs differ in FLOPs per
byte. The two efficiencies are fitted to measured steps (`fit_two_terms`); the FLOPs and bytes are
closed forms. The sum assumes that the two never overlap, and the matmuls' own operands are not
counted: both are left to the efficiencies, which is why they hold for shapes like those fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from x1 import flops
from x1.config import RunConfig
from x1.flops import Gpu

MUON_ROUNDS = 3  # as many as optim.ROUNDS, which is not imported: planning needs no torch
# An assumption: how much further off efficiencies fitted on one GPU are on another.
EXTRAPOLATED_SPREAD = 0.15


@dataclass(frozen=True)
class Traffic:
    """Bytes one optimizer step moves to and from the device's memory outside its matmuls.

    Every kernel reads its inputs and writes its outputs once, and nothing stays in a cache.
    Kernels are those of a compiled model: each norm, rotary embedding, SwiGLU and sum is one.
    """

    embedding: int
    norms: int
    rotary: int
    attention: int
    swiglu: int
    residual: int
    loss: int
    weights: int
    optimizer: int

    @property
    def total(self) -> int:
        return (
            self.embedding
            + self.norms
            + self.rotary
            + self.attention
            + self.swiglu
            + self.residual
            + self.loss
            + self.weights
            + self.optimizer
        )


def traffic(config: RunConfig, micro_batch: int, fused_loss: bool = True) -> Traffic:
    """Bytes of one optimizer step on one device, `micro_batch` sequences at a time.

    `fused_loss`: the loss is compiled with the model and leaves no fp32 table of (tokens, V);
    without it every operator of train.forward_backward's loss reads and writes whole tables.
    """
    model, tokens = config.model, config.batch_tokens
    groups = flops.parameter_groups(model)
    passes = -(-config.train.batch_sequences // micro_batch)
    a = 2 if config.train.dtype == "bf16" else 4
    d, layers = model.d_model, model.n_layers
    again = 2 if config.train.recompute else 1  # how often a block's forward pass is run

    # Per token, forward and backward. A backward pass reads what it differentiates and the
    # gradient above, and writes the gradient below.
    block_norm, last_norm = (2 * again + 3) * a * d, 5 * a * d
    rotary = 4 * again + 6 if model.qk_norm else 4 * again + 4  # norm and rotation in one kernel
    attention = (4 * a * d + 4 * model.n_heads) * again + 8 * a * d + 8 * model.n_heads
    swiglu = (3 * again + 5) * a * model.d_ff
    residual = 2 * (3 * again + 3) * a * d

    # Once per micro-batch: casts to the activations' dtype and of the gradients back, the gradient
    # tables summed (the first has nothing to be added to), the embedding's filled with zeros.
    cast = groups.matrices + model.vocab_size * d
    per_pass = (2 * (4 + a) * cast if a == 2 else 0) + 4 * model.vocab_size * d
    moved_by_muon = groups.matrices if config.optim.name == "muon" else 0
    return Traffic(
        embedding=tokens * (2 * a * d + 12 * d),
        norms=tokens * (2 * layers * block_norm + last_norm),
        rotary=tokens * layers * rotary * a * d,
        attention=tokens * layers * attention,
        swiglu=tokens * layers * swiglu,
        residual=tokens * layers * residual,
        loss=tokens * model.vocab_size * loss_bytes_per_logit(config, fused_loss),
        weights=passes * per_pass + (passes - 1) * 12 * groups.total,
        # Clipping reads the gradients, then scales them. Muon: momentum 12, look-ahead 12, decay 8,
        # bf16 6, stack 4, norm 2, division 4, update 10. Fused AdamW reads four, writes three.
        optimizer=12 * groups.total + 58 * moved_by_muon + 28 * (groups.total - moved_by_muon),
    )


def loss_bytes_per_logit(config: RunConfig, fused: bool) -> int:
    """Bytes moved for each entry of the (tokens, V) table of logits, forward and backward.

    Fused: the logits read twice (maximum, sum) and once more, their gradient written. Otherwise
    operator by operator: log-softmax 8, the gradient of the look-up 4, of log-softmax 12, casts to
    fp32 and back; for the z-loss logsumexp 24 in four kernels, its gradient 24, the sum of both 12.
    """
    a = 2 if config.train.dtype == "bf16" else 4
    if fused:
        return 4 * a
    return 24 + (2 * (a + 4) if a == 2 else 0) + (60 if config.optim.z_loss else 0)


def muon_flops(config: RunConfig) -> int:
    """FLOPs of the Newton-Schulz rounds of one optimizer step; 0 with AdamW alone."""
    if config.optim.name != "muon":
        return 0
    d, width = config.model.d_model, config.model.d_ff

    def of(short: int, long: int) -> int:  # X X^T, its square, their product with X
        return MUON_ROUNDS * (4 * short**2 * long + 2 * short**3)

    return config.model.n_layers * (4 * of(d, d) + 3 * of(min(d, width), max(d, width)))


def matmul_flops(config: RunConfig) -> int:
    """FLOPs of one optimizer step: causal attention, recomputed blocks, and Muon's."""
    per_token = flops.token_flops(config.model, "causal")
    executed = per_token.with_recompute if config.train.recompute else per_token.total
    return config.batch_tokens * executed + muon_flops(config)


@dataclass(frozen=True)
class Row:
    """One measured configuration: how long an optimizer step took, on which GPU."""

    config: RunConfig
    micro_batch: int
    fused_loss: bool
    step_s: float
    gpu: Gpu

    def terms(self) -> tuple[float, float]:
        """Seconds of the matmuls and of the traffic if both ran at the maker's figures."""
        return ideal_seconds(self.config, self.gpu, self.micro_batch, self.fused_loss)


def ideal_seconds(
    config: RunConfig, gpu: Gpu, micro_batch: int, fused_loss: bool = True
) -> tuple[float, float]:
    """Matmul and memory seconds of one step at the peak and bandwidth of `gpu`'s data sheet."""
    moved = traffic(config, micro_batch, fused_loss).total
    return (
        matmul_flops(config) / gpu.peak_flops_per_s(config.train.dtype),
        moved / (gpu.bandwidth_gb_s * flops.GIGA),
    )


@dataclass(frozen=True)
class TwoTerms:
    """Fitted efficiencies, the GPU and dtype they hold for, and how well they fit.

    `spread` is the largest relative error of a fitted row's step time.
    """

    gpu: str
    dtype: str
    matmul_efficiency: float
    memory_efficiency: float
    spread: float
    rows: int

    def to_json(self) -> dict[str, Any]:
        return {
            "gpu": self.gpu,
            "dtype": self.dtype,
            "matmul_efficiency": self.matmul_efficiency,
            "memory_efficiency": self.memory_efficiency,
            "spread": self.spread,
            "rows": self.rows,
        }

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        return cls(**{name: record[name] for name in cls.__dataclass_fields__})


def fit_two_terms(rows: Sequence[Row]) -> TwoTerms:
    """The two efficiencies by least squares on the relative error of the step time.

    Linear in (1 / e_matmul, 1 / e_memory). Raises ValueError for rows of several GPUs or dtypes,
    for fewer than three, and when they do not tell the terms apart: an efficiency would be
    infinite or negative, as when all rows have the same FLOPs per byte.
    """
    kinds = {(row.gpu.name, row.config.train.dtype) for row in rows}
    if len(kinds) != 1 or len(rows) < 3:
        raise ValueError(f"three rows or more of one GPU and dtype, not {len(rows)} of {kinds}")
    (gpu, dtype), *_ = kinds
    scaled = [tuple(term / row.step_s for term in row.terms()) for row in rows]
    xx = sum(x * x for x, _ in scaled)
    xy = sum(x * y for x, y in scaled)
    yy = sum(y * y for _, y in scaled)
    x1, y1 = sum(x for x, _ in scaled), sum(y for _, y in scaled)
    determinant = xx * yy - xy * xy
    if determinant <= 1e-6 * xx * yy:
        raise ValueError(
            "the rows have the same FLOPs per byte: the two terms cannot be told apart"
        )
    slow_matmul = (yy * x1 - xy * y1) / determinant
    slow_memory = (xx * y1 - xy * x1) / determinant
    if slow_matmul <= 0 or slow_memory <= 0:
        raise ValueError(
            f"not two positive terms: 1/e_matmul {slow_matmul:.3g}, 1/e_memory {slow_memory:.3g}"
        )
    errors = [abs(x * slow_matmul + y * slow_memory - 1) for x, y in scaled]
    return TwoTerms(gpu, dtype, 1 / slow_matmul, 1 / slow_memory, max(errors), len(rows))


@dataclass(frozen=True)
class Rate:
    """Training tokens/s with an interval; `extrapolated` when the GPU is not the one measured."""

    tokens_per_s: float
    low: float
    high: float
    extrapolated: bool


def predict_tokens_per_s(
    config: RunConfig,
    gpu: Gpu,
    fitted: TwoTerms,
    micro_batch: int | None = None,
    fused_loss: bool = True,
) -> Rate:
    """Tokens/s of a compiled run on `gpu`; `micro_batch` defaults to what fits in its memory.

    On the GPU measured the interval is the fit's spread. On another it reaches from the case that
    the whole step follows the worse of the two ratios, peak or bandwidth, to the case that it
    follows the better one, and is wider by EXTRAPOLATED_SPREAD. Raises ValueError for a dtype that
    was not fitted.
    """
    if config.train.dtype != fitted.dtype:
        raise ValueError(f"fitted for {fitted.dtype}, not {config.train.dtype}")
    size = micro_batch or max(1, flops.fitting_micro_batch(config, gpu.memory_gb))

    def rate_on(card: Gpu) -> float:
        matmul_s, memory_s = ideal_seconds(config, card, size, fused_loss)
        step_s = matmul_s / fitted.matmul_efficiency + memory_s / fitted.memory_efficiency
        return config.batch_tokens / step_s

    value, home = rate_on(gpu), flops.gpu(fitted.gpu)
    if gpu.name == home.name:
        return Rate(value, value * (1 - fitted.spread), value * (1 + fitted.spread), False)
    ratios = (
        gpu.peak_flops_per_s(fitted.dtype) / home.peak_flops_per_s(fitted.dtype),
        gpu.bandwidth_gb_s / home.bandwidth_gb_s,
    )
    spread = min(0.99, fitted.spread + EXTRAPOLATED_SPREAD)
    at_home = rate_on(home)
    low, high = at_home * min(ratios) * (1 - spread), at_home * max(ratios) * (1 + spread)
    return Rate(value, low, high, True)
